//! Interoperability with rumqttc: its 3.1.1 and its 5.0 client, against a broker in this process.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use sluice::config::{Durability, Limits, Listener, Store};
use sluice::{Broker, Config};

/// How long the next event may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many events may come before the one waited for.
const EVENTS: usize = 100;

fn broker() -> (Broker, u16) {
    let config = Config {
        shards: 2,
        listeners: vec![Listener::on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))],
        store: Store { durability: Durability::Memory, ..Store::default() },
        // What else the machine does holds turns up, too.
        limits: Limits { max_turn: None, ..Limits::default() },
        ..Config::default()
    };
    let broker = Broker::start(config).expect("a broker");
    let port = broker.addresses()[0].port();
    (broker, port)
}

/// A client and the loop that moves its packets, which the two versions have alike.
macro_rules! peer {
    ($module:path) => {
        use $module::{Client, Connection, Event, MqttOptions};

        struct Peer {
            client: Client,
            connection: Connection,
            /// What came while something else was waited for: a subscription may bring messages
            /// before its SUBACK.
            inbox: VecDeque<Publish>,
        }

        impl Peer {
            fn connect(options: MqttOptions) -> (Self, ConnAck) {
                let (client, connection) = Client::new(options, 10);
                let mut this = Self { client, connection, inbox: VecDeque::new() };
                let connack = this.until("CONNACK", |event| match event {
                    Event::Incoming(Packet::ConnAck(connack)) => Some(connack),
                    _ => None,
                });
                (this, connack)
            }

            fn clean(port: u16, client_id: &str) -> Self {
                Self::connect(options(port, client_id)).0
            }

            fn until<T>(&mut self, what: &str, mut found: impl FnMut(Event) -> Option<T>) -> T {
                for _ in 0..EVENTS {
                    let event = match self.connection.recv_timeout(PATIENCE) {
                        Ok(Ok(event)) => event,
                        Ok(Err(error)) => panic!("no {what}: {error}"),
                        Err(_) => panic!("no {what} in {PATIENCE:?}"),
                    };
                    if let Event::Incoming(Packet::Publish(publish)) = &event {
                        self.inbox.push_back(publish.clone());
                    }
                    if let Some(found) = found(event) {
                        return found;
                    }
                }
                panic!("no {what} in {EVENTS} events");
            }

            /// Subscribes and waits until it is so.
            fn subscribe(&mut self, filter: &str, qos: QoS) {
                self.client.subscribe(filter, qos).expect("it takes requests");
                self.subscribed();
            }

            fn subscribed(&mut self) -> SubAck {
                self.until("SUBACK", |event| match event {
                    Event::Incoming(Packet::SubAck(suback)) => Some(suback),
                    _ => None,
                })
            }

            /// Publishes and waits until the flow has ended.
            fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: &str) {
                self.client.publish(topic, qos, retain, payload.to_owned()).expect("it takes it");
                self.published(qos);
            }

            fn published(&mut self, qos: QoS) {
                self.until("end of the flow", |event| {
                    let ends = match qos {
                        QoS::AtMostOnce => {
                            matches!(event, Event::Outgoing(rumqttc::Outgoing::Publish(_)))
                        }
                        QoS::AtLeastOnce => matches!(event, Event::Incoming(Packet::PubAck(_))),
                        QoS::ExactlyOnce => matches!(event, Event::Incoming(Packet::PubComp(_))),
                    };
                    ends.then_some(())
                });
            }

            fn receive(&mut self) -> Publish {
                if self.inbox.is_empty() {
                    self.until("PUBLISH", |event| {
                        matches!(event, Event::Incoming(Packet::Publish(_))).then_some(())
                    });
                }
                self.inbox.pop_front().expect("it has just come")
            }

            /// Says goodbye.
            fn leave(mut self) {
                self.client.disconnect().expect("it takes requests");
                self.until("DISCONNECT", |event| {
                    matches!(event, Event::Outgoing(rumqttc::Outgoing::Disconnect)).then_some(())
                });
            }
        }

        #[test]
        fn every_qos_arrives_once_and_in_order() {
            let (broker, port) = broker();
            let mut receiver = Peer::clean(port, "receiver");
            let mut sender = Peer::clean(port, "sender");
            receiver.subscribe("from/+", QoS::ExactlyOnce);
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
                for count in 0..5 {
                    sender.publish("from/sender", qos, false, &format!("{qos:?} {count}"));
                }
                for count in 0..5 {
                    let message = receiver.receive();
                    assert_eq!(message.payload, format!("{qos:?} {count}"));
                    assert_eq!((message.qos, message.retain, message.dup), (qos, false, false));
                    assert_eq!(message.topic, "from/sender");
                }
            }
            receiver.leave();
            sender.leave();
            assert_eq!(broker.stop(), Ok(()));
        }

        #[test]
        fn a_retained_message_is_kept_replaced_and_cleared() {
            let (_broker, port) = broker();
            let mut sender = Peer::clean(port, "sender");
            sender.publish("state", QoS::AtLeastOnce, true, "first");
            sender.publish("state", QoS::AtLeastOnce, true, "second");
            let mut receiver = Peer::clean(port, "receiver");
            receiver.subscribe("#", QoS::AtLeastOnce);
            let message = receiver.receive();
            assert_eq!((&message.payload[..], message.retain), (&b"second"[..], true));

            sender.publish("state", QoS::AtLeastOnce, true, "");
            let mut latecomer = Peer::clean(port, "latecomer");
            latecomer.subscribe("#", QoS::AtLeastOnce);
            sender.publish("state", QoS::AtLeastOnce, false, "now");
            let message = latecomer.receive();
            assert_eq!((&message.payload[..], message.retain), (&b"now"[..], false));
        }

        #[test]
        fn the_will_of_one_who_vanishes_is_published() {
            let (_broker, port) = broker();
            let mut receiver = Peer::clean(port, "receiver");
            receiver.subscribe("wills/+", QoS::AtLeastOnce);
            let leaving = Peer::connect(with_will(port, "leaving")).0;
            leaving.leave();
            let vanishing = Peer::connect(with_will(port, "vanishing")).0;
            drop(vanishing);
            let message = receiver.receive();
            assert_eq!(message.topic, "wills/vanishing", "who says goodbye leaves no will");
            assert_eq!((&message.payload[..], message.qos), (&b"gone"[..], QoS::AtLeastOnce));
        }

        #[test]
        fn a_session_is_resumed_with_what_came_meanwhile() {
            let (_broker, port) = broker();
            let (mut receiver, connack) = Peer::connect(persistent(port, "receiver"));
            assert!(!connack.session_present);
            receiver.subscribe("mail", QoS::ExactlyOnce);
            receiver.leave();
            let mut sender = Peer::clean(port, "sender");
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce] {
                sender.publish("mail", qos, false, &format!("{qos:?}"));
            }
            let (mut receiver, connack) = Peer::connect(persistent(port, "receiver"));
            assert!(connack.session_present);
            for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce] {
                assert_eq!(receiver.receive().payload, format!("{qos:?}"));
            }
            receiver.leave();
            let (_receiver, connack) = Peer::connect(options(port, "receiver"));
            assert!(!connack.session_present, "a clean start");
        }
    };
}

mod v4 {
    use super::*;
    use rumqttc::{ConnAck, LastWill, Packet, Publish, QoS, SubAck};

    peer!(rumqttc);

    fn options(port: u16, client_id: &str) -> MqttOptions {
        MqttOptions::new(client_id, "127.0.0.1", port)
    }

    fn persistent(port: u16, client_id: &str) -> MqttOptions {
        let mut options = options(port, client_id);
        options.set_clean_session(false);
        options
    }

    fn with_will(port: u16, client_id: &str) -> MqttOptions {
        let mut options = options(port, client_id);
        let topic = format!("wills/{client_id}");
        options.set_last_will(LastWill::new(topic, "gone", QoS::AtLeastOnce, false));
        options
    }
}

mod v5 {
    use super::*;
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{
        ConnAck, Filter, LastWill, LastWillProperties, Packet, PubAckReason, Publish,
        PublishProperties, RetainForwardRule, SubAck, SubscribeProperties,
    };

    peer!(rumqttc::v5);

    fn options(port: u16, client_id: &str) -> MqttOptions {
        MqttOptions::new(client_id, "127.0.0.1", port)
    }

    fn persistent(port: u16, client_id: &str) -> MqttOptions {
        let mut options = options(port, client_id);
        options.set_clean_start(false).set_session_expiry_interval(Some(600));
        options
    }

    fn with_will(port: u16, client_id: &str) -> MqttOptions {
        let mut options = options(port, client_id);
        let topic = format!("wills/{client_id}");
        options.set_last_will(LastWill::new(topic, "gone", QoS::AtLeastOnce, false, None));
        options
    }

    fn some_properties() -> PublishProperties {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        PublishProperties {
            payload_format_indicator: Some(1),
            content_type: Some("text/plain".to_owned()),
            response_topic: Some("answers/1".to_owned()),
            correlation_data: Some(vec![0, 1, 254, 255].into()),
            user_properties: vec![pair("b", "1"), pair("a", "2"), pair("b", "3")],
            ..PublishProperties::default()
        }
    }

    #[test]
    fn properties_are_passed_on() {
        let (_broker, port) = broker();
        let mut receiver = Peer::clean(port, "receiver");
        let named = SubscribeProperties { id: Some(268_435_455), user_properties: Vec::new() };
        let filter = "questions/+";
        let asked = receiver.client.subscribe_with_properties(filter, QoS::AtLeastOnce, named);
        asked.expect("it takes requests");
        receiver.subscribed();
        let mut sender = Peer::clean(port, "sender");
        let sent = PublishProperties { message_expiry_interval: Some(600), ..some_properties() };
        let asked = sender.client.publish_with_properties(
            "questions/1",
            QoS::AtLeastOnce,
            false,
            "what?",
            sent.clone(),
        );
        asked.expect("it takes requests");
        sender.published(QoS::AtLeastOnce);
        let message = receiver.receive();
        assert_eq!(&message.payload[..], b"what?");
        let mut got = message.properties.expect("properties");
        let expiry = got.message_expiry_interval.take().expect("an expiry");
        assert!((590..=600).contains(&expiry), "{expiry} s left");
        let identified = PublishProperties {
            message_expiry_interval: None,
            subscription_identifiers: vec![268_435_455],
            ..sent
        };
        assert_eq!(got, identified);
    }

    #[test]
    fn the_will_carries_its_properties() {
        let (_broker, port) = broker();
        let mut receiver = Peer::clean(port, "receiver");
        receiver.subscribe("wills/+", QoS::AtLeastOnce);
        let mut options = options(port, "vanishing");
        let sent = some_properties();
        let properties = LastWillProperties {
            delay_interval: Some(0),
            payload_format_indicator: sent.payload_format_indicator,
            message_expiry_interval: None,
            content_type: sent.content_type.clone(),
            response_topic: sent.response_topic.clone(),
            correlation_data: sent.correlation_data.clone(),
            user_properties: sent.user_properties.clone(),
        };
        let will = LastWill::new("wills/1", "gone", QoS::AtLeastOnce, false, Some(properties));
        options.set_last_will(will);
        drop(Peer::connect(options).0);
        assert_eq!(receiver.receive().properties, Some(sent));
    }

    #[test]
    fn a_topic_alias_stands_for_its_topic() {
        let (_broker, port) = broker();
        let mut receiver = Peer::clean(port, "receiver");
        receiver.subscribe("a/long/topic", QoS::AtLeastOnce);
        let (mut sender, connack) = Peer::connect(options(port, "sender"));
        let properties = connack.properties.expect("CONNACK states the limits");
        assert!(properties.topic_alias_max.expect("aliases are offered") >= 1);
        for topic in ["a/long/topic", ""] {
            let alias = PublishProperties { topic_alias: Some(1), ..PublishProperties::default() };
            let asked = sender.client.publish_with_properties(
                topic,
                QoS::AtLeastOnce,
                false,
                "again",
                alias,
            );
            asked.expect("it takes requests");
            sender.published(QoS::AtLeastOnce);
            assert_eq!(receiver.receive().topic, "a/long/topic");
        }
    }

    #[test]
    fn subscription_options_are_kept_to() {
        let (_broker, port) = broker();
        let mut sender = Peer::clean(port, "sender");
        sender.publish("state", QoS::AtLeastOnce, true, "old");
        let mut receiver = Peer::clean(port, "receiver");
        let filter = Filter {
            nolocal: true,
            preserve_retain: true,
            retain_forward_rule: RetainForwardRule::Never,
            ..Filter::new("state", QoS::AtLeastOnce)
        };
        receiver.client.subscribe_many([filter]).expect("it takes requests");
        receiver.subscribed();
        receiver.publish("state", QoS::AtLeastOnce, false, "own");
        sender.publish("state", QoS::AtLeastOnce, true, "new");
        let message = receiver.receive();
        assert_eq!((&message.payload[..], message.retain), (&b"new"[..], true));
    }

    #[test]
    fn a_publisher_is_told_that_nobody_listens() {
        let (_broker, port) = broker();
        let mut sender = Peer::clean(port, "sender");
        sender.client.publish("void", QoS::AtLeastOnce, false, "?").expect("it takes requests");
        let reason = sender.until("PUBACK", |event| match event {
            Event::Incoming(Packet::PubAck(puback)) => Some(puback.reason),
            _ => None,
        });
        assert_eq!(reason, PubAckReason::NoMatchingSubscribers);
    }

    #[test]
    fn shared_subscribers_get_each_message_once() {
        let (_broker, port) = broker();
        let mut members = ["one", "two"].map(|id| Peer::clean(port, id));
        for member in &mut members {
            member.subscribe("$share/workers/jobs", QoS::AtLeastOnce);
        }
        let mut sender = Peer::clean(port, "sender");
        for count in 0..4 {
            sender.publish("jobs", QoS::AtLeastOnce, false, &count.to_string());
        }
        // In turn, the default: two for each.
        let mut jobs: Vec<_> =
            members.iter_mut().flat_map(|one| [one.receive(), one.receive()]).collect();
        jobs.sort_by(|a, b| a.payload.cmp(&b.payload));
        let jobs: Vec<_> = jobs.iter().map(|job| &job.payload[..]).collect();
        assert_eq!(jobs, [b"0", b"1", b"2", b"3"]);
    }
}
