//! A client that subscribes and unsubscribes again and again. What UNSUBACK has said of the end of a
//! subscription is as good as an acknowledgement: it must not come back.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fastrand::Rng;
use sluice::mqtt::{AckKind, QoS};

use super::link::{Delivery, Incoming, Link, Persona, Session};
use super::stage::Stage;

/// How long it waits for packets before it looks around.
const GLANCE: Duration = Duration::from_millis(10);

pub(super) struct Waverer {
    pub(super) persona: Persona,
    /// Of a publisher.
    pub(super) topic: String,
}

/// What it wants, and what it was told.
struct State {
    is_subscribed: bool,
    is_answered: bool,
    /// Since UNSUBACK: numbers from this one on must not come `[MQTT-3.10.4-2]`.
    nothing_from: Option<u32>,
}

impl Waverer {
    /// Wavers until everything is drained.
    pub(super) fn run(&self, stage: &Stage, mut rng: Rng) {
        let mut state = State { is_subscribed: true, is_answered: false, nothing_from: None };
        let mut expected = Some(false);
        while !stage.is_drained() {
            let opened = stage.connect(&self.persona, Session::Resume, expected);
            let Some((mut link, _)) = opened else { return };
            expected = Some(true);
            // It ends when the broker does.
            let _ = self.waver(&mut link, stage, &mut state, &mut rng);
        }
    }

    fn waver(
        &self,
        link: &mut Link,
        stage: &Stage,
        state: &mut State,
        rng: &mut Rng,
    ) -> io::Result<()> {
        let mut next = Instant::now();
        if !state.is_answered {
            self.ask(link, state)?;
        }
        while !stage.is_drained() {
            match link.receive(GLANCE)? {
                Some(Incoming::SubAck { .. }) => state.is_answered = true,
                Some(Incoming::UnsubAck) => {
                    state.is_answered = true;
                    let progress = stage.progress_of(&self.topic);
                    state.nothing_from = progress.map(|it| it.sent.load(Ordering::SeqCst));
                }
                Some(Incoming::Publish(delivery)) => self.take(link, stage, state, &delivery)?,
                Some(Incoming::Ack(AckKind::PubRel, id, _)) => link.ack(AckKind::PubComp, id)?,
                Some(Incoming::Disconnect) => return Err(io::ErrorKind::ConnectionAborted.into()),
                _ => {}
            }
            if state.is_answered && Instant::now() > next {
                next = Instant::now() + Duration::from_millis(rng.u64(5..80));
                state.is_subscribed = !state.is_subscribed;
                (state.is_answered, state.nothing_from) = (false, None);
                self.ask(link, state)?;
            }
        }
        Ok(())
    }

    fn ask(&self, link: &mut Link, state: &State) -> io::Result<()> {
        match state.is_subscribed {
            true => link.subscribe(&self.topic, QoS::ExactlyOnce),
            false => link.unsubscribe(&self.topic),
        }
    }

    fn take(
        &self,
        link: &mut Link,
        stage: &Stage,
        state: &State,
        delivery: &Delivery,
    ) -> io::Result<()> {
        let from = state.nothing_from.unwrap_or(u32::MAX);
        if let Some(number) = delivery.number.filter(|number| *number >= from) {
            let name = &self.persona.name;
            stage.odd(format!("{name}: {number} of {}, sent after UNSUBACK", self.topic));
        }
        match (delivery.qos, delivery.id) {
            (QoS::AtLeastOnce, Some(id)) => link.ack(AckKind::PubAck, id),
            (QoS::ExactlyOnce, Some(id)) => link.ack(AckKind::PubRec, id),
            _ => Ok(()),
        }
    }
}
