//! Reading queues back, a page at a time.

use hashbrown::HashMap;

use super::record::{Decoder, Epochs, QueuedFields, place_key, split_number, whole_number};
use crate::hooks::{Key, Store, StoreError, Table};
use crate::mqtt::Message;
use crate::session::{ExpiredOnDisk, PageOfQueue, PageRequest, SessionNumber};
use crate::timer::Time;

/// A page, and what has to be set aside because it cannot be read.
pub(super) struct Read {
    pub(super) page: PageOfQueue,
    pub(super) damaged: Vec<(Table, Vec<u8>, Vec<u8>)>,
    /// Queued records of messages that are not there, with the numbers of those.
    pub(super) stray: Vec<(Key, u64)>,
}

/// Queued records that are read at once, before their messages. A few large messages fill a page, and
/// what is behind them would be read for nothing.
const RECORDS_AT_ONCE: usize = 32;

/// Records of a queue, with place and key.
type Records = Vec<(u64, Key, QueuedFields)>;

/// Why no more records were read.
enum Stop {
    /// There are no more.
    End,
    /// The next one is not committed yet.
    Uncommitted,
    /// There are as many as were asked for.
    Enough,
}

/// Reads what a session has queued, up to the place `until`, where something is not committed yet, and
/// without the records whose removal is not, by their keys, nor what is in flight.
pub(super) fn read(
    store: &dyn Store,
    request: &PageRequest,
    until: Option<u64>,
    is_removed: &dyn Fn(&[u8]) -> bool,
    epochs: &Epochs,
) -> Result<Read, StoreError> {
    let page = PageOfQueue { end: request.from, ..PageOfQueue::default() };
    let mut read = Read { page, damaged: Vec::new(), stray: Vec::new() };
    let mut messages = HashMap::new();
    let mut bytes = 0;
    let mut left = request.messages as usize;
    loop {
        let most = left.min(RECORDS_AT_ONCE);
        let (records, stop) = read.records(store, request, until, is_removed, most, epochs)?;
        left -= records.len();
        for (place, key, fields) in records {
            if bytes >= request.bytes && bytes > 0 {
                read.page.end = place;
                return Ok(read);
            }
            let number = fields.message;
            let message = match messages.get(&number) {
                Some(message) => Some(Message::clone(message)),
                None => message(store, number, epochs, &mut read.damaged)?,
            };
            let Some(message) = message else {
                read.page.lost += 1;
                read.stray.push((key, number));
                continue;
            };
            bytes += message.size() as u64;
            messages.insert(number, message.clone());
            read.page.messages.push((place, fields.of(message)));
        }
        match stop {
            Stop::Enough if left > 0 => {}
            Stop::Enough | Stop::Uncommitted => return Ok(read),
            Stop::End => {
                read.page.is_last = until.is_none();
                return Ok(read);
            }
        }
    }
}

impl Read {
    /// The next records of the queue, `most` of them, behind the end of the page, which moves on.
    fn records(
        &mut self,
        store: &dyn Store,
        request: &PageRequest,
        until: Option<u64>,
        is_removed: &dyn Fn(&[u8]) -> bool,
        most: usize,
        epochs: &Epochs,
    ) -> Result<(Records, Stop), StoreError> {
        let mut records = Vec::new();
        let mut stop = Stop::End;
        each_queued(store, request.session, self.page.end, |place, key, value| {
            if records.len() >= most {
                stop = Stop::Enough;
                return false;
            }
            if until.is_some_and(|until| place >= until) {
                stop = Stop::Uncommitted;
                return false;
            }
            self.page.end = place + 1;
            if is_removed(key) || request.is_in_flight(place) {
                return true;
            }
            let fields = Decoder::open(Table::Queued, key, value, epochs)
                .and_then(|mut decoder| decoder.queued());
            match fields {
                Some(fields) => records.push((place, key.into(), fields)),
                None => {
                    self.page.lost += 1;
                    self.damaged.push((Table::Queued, key.to_vec(), value.to_vec()));
                }
            }
            true
        })?;
        Ok((records, stop))
    }
}

/// What of a queue has expired.
pub(super) struct Expired {
    /// The page that says so.
    pub(super) page: PageOfQueue,
    /// Their keys, and the numbers of their messages.
    pub(super) keys: Vec<(Key, u64)>,
    /// How many records were looked at.
    pub(super) seen: u32,
}

/// Looks for what has expired by a time, in a part of what a session has queued, as [`read`] reads it.
pub(super) fn expired(
    store: &dyn Store,
    request: &PageRequest,
    by: Time,
    until: Option<u64>,
    is_removed: &dyn Fn(&[u8]) -> bool,
    epochs: &Epochs,
) -> Result<Expired, StoreError> {
    let mut page = PageOfQueue { end: request.from, is_last: true, ..PageOfQueue::default() };
    let mut expired = ExpiredOnDisk::default();
    let (mut keys, mut seen) = (Vec::new(), 0);
    each_queued(store, request.session, request.from, |place, key, value| {
        if until.is_some_and(|until| place >= until) {
            // What that is, the next look sees.
            expired.next_expiry = Some(by);
            return false;
        }
        if seen == request.messages {
            page.is_last = false;
            return false;
        }
        (seen, page.end) = (seen + 1, place + 1);
        if is_removed(key) || request.is_in_flight(place) {
            return true;
        }
        // Who reads one that is damaged sets it aside.
        let fields = Decoder::open(Table::Queued, key, value, epochs)
            .and_then(|mut decoder| decoder.queued());
        match fields.map(|fields| (fields.message, fields.expires_at)) {
            Some((message, Some(at))) if at <= by => keys.push((key.into(), message)),
            Some((_, Some(at))) => {
                expired.next_expiry = Some(expired.next_expiry.map_or(at, |next| next.min(at)));
            }
            Some((_, None)) | None => {}
        }
        true
    })?;
    for (_, number) in &keys {
        let key = number.to_be_bytes();
        let size = store.get(Table::Messages, &key)?.and_then(|value| {
            let mut decoder = Decoder::open(Table::Messages, &key, &value, epochs)?;
            decoder.message_size()
        });
        expired.messages += 1;
        expired.bytes += size.map_or(0, |(size, _)| size as u64);
    }
    page.expired = Some(expired);
    Ok(Expired { page, keys, seen })
}

/// The message with a number, if it is there and whole.
pub(super) fn message(
    store: &dyn Store,
    number: u64,
    epochs: &Epochs,
    damaged: &mut Vec<(Table, Vec<u8>, Vec<u8>)>,
) -> Result<Option<Message>, StoreError> {
    let key = number.to_be_bytes();
    let Some(value) = store.get(Table::Messages, &key)? else { return Ok(None) };
    let message = Decoder::open(Table::Messages, &key, &value, epochs)
        .and_then(|mut decoder| decoder.message());
    if message.is_none() {
        damaged.push((Table::Messages, key.to_vec(), value));
    }
    Ok(message)
}

/// What a session has queued from a place on, with the places, until `each` answers false.
pub(super) fn each_queued(
    store: &dyn Store,
    session: SessionNumber,
    from: u64,
    mut each: impl FnMut(u64, &[u8], &[u8]) -> bool,
) -> Result<(), StoreError> {
    store.range(Table::Queued, &place_key(session, from), &mut |key, value| {
        let Some((_, rest)) = split_number(key).filter(|(of, _)| *of == session) else {
            return false;
        };
        // A key that is no place has been set aside at the start.
        whole_number(rest).is_none_or(|place| each(place, key, value))
    })
}
