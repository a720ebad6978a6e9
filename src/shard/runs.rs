//! Runs: consecutive QoS 0 publishes of one connection to one topic, handed on as one range of bytes.
//!
//! A publisher that sends many messages between two reads costs one look at its receivers, not one per
//! message. Receivers that take the frames as they came share the bytes; for the other wire form
//! they are encoded once; only aliases and identifiers need a frame of one's own.

use crate::mqtt::{
    Limits, Publish, PublishOut, Version, decode_publish, encode_publish, frame_head,
};
use crate::net::ConnId;
use crate::router::{RouteId, SessionKey};
use crate::session::DropCause;

use super::Core;
use super::connection::State;
use super::distribute::Reach;
use super::input::Reader;
use super::outbox::Place;
use super::parcel::Parcel;
use super::remote::{Item, Publisher};

/// Whole QoS 0 frames in a row: no RETAIN, nothing in them that a receiver must not see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) route: RouteId,
    pub(super) place: Place,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) count: u64,
    pub(super) longest: usize,
    pub(super) version: Version,
}

/// What becomes of a run for one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HandedOn {
    /// It is written, or was dropped and counted, as a whole.
    Whole,
    /// Its frames have to be looked at one by one.
    Singly,
    /// There is no connection that may be written to.
    Offline,
}

impl<S> Core<S> {
    /// Adds the frame at `start..end` of the arena to the reader's run.
    #[inline]
    pub(super) fn add_to_run(&mut self, reader: &mut Reader<'_>, start: usize, end: usize) {
        if let Some(run) = &mut reader.run {
            if run.end == start && run.route == reader.route {
                run.end = end;
                run.count += 1;
                run.longest = run.longest.max(end - start);
                return;
            }
            self.flush_run(reader);
        }
        reader.run = Some(Run {
            route: reader.route,
            place: Place::Arena,
            start,
            end,
            count: 1,
            longest: end - start,
            version: reader.version,
        });
    }

    /// Hands the reader's run on to everybody who wants it.
    #[inline]
    pub(super) fn flush_run(&mut self, reader: &mut Reader<'_>) {
        if let Some(run) = reader.run.take() {
            let frames = reader.input.get(run.start - reader.base..run.end - reader.base);
            let frames = frames.unwrap_or_default();
            let route = self.router.get(run.route);
            let (remote, groups) = (route.remote, !route.groups.is_empty());
            if remote != 0 || groups {
                self.hand_on_run(&run, frames, remote);
                if groups {
                    let publisher = self.publisher(reader);
                    self.run_to_groups(&run, frames, publisher);
                }
            }
            self.run_to_targets(&run, frames, Some(reader.session));
        }
    }

    fn hand_on_run(&mut self, run: &Run, frames: &[u8], mut remote: u64) {
        while remote != 0 {
            let to = remote.trailing_zeros();
            remote &= remote - 1;
            self.mailbox.push_bytes(to as u8, frames, |start, end| {
                Item::Run(Run { place: Place::Scratch, start, end, ..*run })
            });
        }
    }

    /// Hands a run that another shard sent to the sessions of this one.
    pub(super) fn run_from_mail(&mut self, mut run: Run, frames: &[u8]) {
        let Some(topic) = first_topic(run.version, frames, &self.settings.limits) else { return };
        run.route = self.route(topic);
        let scratch = &mut self.connections.scratch;
        run.start = scratch.len();
        scratch.extend_from_slice(frames);
        run.end = scratch.len();
        self.run_to_targets(&run, frames, None);
    }

    /// Hands a run to the plain subscribers of this shard.
    fn run_to_targets(&mut self, run: &Run, frames: &[u8], publisher: Option<SessionKey>) {
        let mut converted = None;
        let count = self.router.get(run.route).targets.len();
        for index in 0..count {
            let Some(target) = self.router.get(run.route).targets.get(index) else { break };
            let own = publisher == Some(target.session);
            if target.for_publisher(own).is_none() {
                continue;
            }
            let key = target.session;
            if target.has_identifiers() {
                self.run_singly(run, frames, index, own);
                continue;
            }
            let Some(slot) = self.sessions.get(key) else { continue };
            let handed_on = match slot.connection {
                Some(id) => self.run_to_connection(id, key, run, frames, &mut converted),
                None => HandedOn::Offline,
            };
            match handed_on {
                HandedOn::Whole => {}
                HandedOn::Offline if !self.settings.session.queue_qos0 => {
                    self.count_drops(key, DropCause::Offline, run.count);
                }
                HandedOn::Offline | HandedOn::Singly => self.run_singly(run, frames, index, own),
            }
        }
    }

    /// Writes a run to a connection, or drops it if that is slow.
    #[inline]
    fn run_to_connection(
        &mut self,
        id: ConnId,
        key: SessionKey,
        run: &Run,
        frames: &[u8],
        converted: &mut Option<(usize, usize)>,
    ) -> HandedOn {
        let limits = &self.settings.limits;
        let backlog_limit = self.settings.qos0_backlog_bytes;
        let connection = self.connections.get(id);
        let live = connection.filter(|connection| connection.state == State::Connected);
        let Some(connection) = live else { return HandedOn::Offline };
        if connection.is_slow(backlog_limit) {
            self.count_drops(key, DropCause::SlowReader, run.count);
            return HandedOn::Whole;
        }
        if connection.minds_frames
            && (connection.singly || run.longest + 4 > connection.maximum_packet_size as usize)
        {
            return HandedOn::Singly;
        }
        let version = connection.version;
        let (place, start, end) = if version.is_v5() == run.version.is_v5() {
            (run.place, run.start, run.end)
        } else {
            let scratch = &mut self.connections.scratch;
            let (start, end) = *converted
                .get_or_insert_with(|| convert(run.version, version, frames, limits, scratch));
            (Place::Scratch, start, end)
        };
        if let Some(mut out) = self.connections.out(id) {
            out.frames(place, start, end, run.count);
        }
        HandedOn::Whole
    }

    /// Hands a run to one target message by message.
    fn run_singly(&mut self, run: &Run, frames: &[u8], index: usize, own: bool) {
        self.take_apart(run, frames, Publisher::NOBODY, |core, parcel| {
            core.deliver_to_target(parcel, run.route, index, own);
        });
    }

    fn run_to_groups(&mut self, run: &Run, frames: &[u8], publisher: Publisher) {
        self.take_apart(run, frames, publisher, |core, parcel| {
            let mut reach = Reach::NONE;
            core.distribute_to_groups(parcel, run.route, &mut reach);
        });
    }

    /// Handles the messages of a run one by one.
    fn take_apart(
        &mut self,
        run: &Run,
        frames: &[u8],
        publisher: Publisher,
        mut each: impl FnMut(&mut Self, &mut Parcel<'_>),
    ) {
        let limits = self.settings.limits;
        let mut topic = std::mem::take(&mut self.topic);
        topic.clear();
        topic.push_str(self.router.get(run.route).topic());
        for_each_publish(run.version, frames, &limits, |publish| {
            let mut scratch = Vec::new();
            let mut parcel = Parcel::from_publish(&publish, &topic, None, &mut scratch, publisher);
            each(self, &mut parcel);
        });
        self.topic = topic;
    }
}

/// Decodes whole frames that were decoded before.
fn for_each_publish<'a>(
    version: Version,
    mut frames: &'a [u8],
    limits: &Limits,
    mut each: impl FnMut(Publish<'a>),
) {
    while let Ok(Some(head)) = frame_head(frames, u32::MAX) {
        let Some((frame, rest)) = frames.split_at_checked(head.frame_len()) else { break };
        let body = frame.get(usize::from(head.head_len)..).unwrap_or_default();
        if let Ok(publish) = decode_publish(version, head.first_byte, body, limits) {
            each(publish);
        }
        frames = rest;
    }
}

/// The topic of a run. All of its frames have the same.
fn first_topic<'a>(version: Version, frames: &'a [u8], limits: &Limits) -> Option<&'a str> {
    let head = frame_head(frames, u32::MAX).ok()??;
    let body = frames.get(usize::from(head.head_len)..head.frame_len())?;
    let publish = decode_publish(version, head.first_byte, body, limits).ok()?;
    std::str::from_utf8(publish.topic).ok()
}

/// Encodes a run's frames in another version's wire form.
fn convert(
    from: Version,
    to: Version,
    frames: &[u8],
    limits: &Limits,
    scratch: &mut Vec<u8>,
) -> (usize, usize) {
    let start = scratch.len();
    for_each_publish(from, frames, limits, |publish| {
        let properties = if to.is_v5() { publish.properties.raw } else { &[] };
        let out = PublishOut { properties, ..PublishOut::new(publish.topic, publish.payload) };
        encode_publish(to, &out, scratch);
    });
    (start, scratch.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(version: Version, payloads: &[&[u8]]) -> Vec<u8> {
        let mut frames = Vec::new();
        for payload in payloads {
            encode_publish(version, &PublishOut::new(b"a/b", payload), &mut frames);
        }
        frames
    }

    #[test]
    fn a_run_names_its_topic_once() {
        for version in [Version::V31, Version::V311, Version::V5] {
            let run = frames(version, &[b"1", &[b'2'; 200], b""]);
            assert_eq!(first_topic(version, &run, &Limits::default()), Some("a/b"));
            assert_eq!(
                first_topic(version, &run[..4], &Limits::default()),
                None,
                "not a whole frame"
            );
        }
        assert_eq!(first_topic(Version::V5, b"", &Limits::default()), None);
    }

    #[test]
    fn the_other_wire_form_has_the_same_messages() {
        // The second one's Remaining Length takes a byte more with the empty properties of 5.0.
        let payloads: [&[u8]; 3] = [b"1", &[b'2'; 122], b""];
        let (old, new) = (frames(Version::V311, &payloads), frames(Version::V5, &payloads));
        let mut scratch = b"before".to_vec();
        let (start, end) =
            convert(Version::V311, Version::V5, &old, &Limits::default(), &mut scratch);
        assert_eq!(scratch[start..end], new);
        let (start, end) =
            convert(Version::V5, Version::V31, &new, &Limits::default(), &mut scratch);
        assert_eq!(scratch[start..end], old);
    }
}
