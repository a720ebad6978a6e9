use super::*;
use crate::engine::wire;
use sluice::mqtt::Version;

fn flow(qos: QoS, window: u32, receivers: u32) -> Flow {
    let spec = FlowSpec { receivers, ..FlowSpec::new("a/b".into(), qos, 64, window) };
    let templates = wire::publish_templates(Version::V311, &spec);
    Flow::new(&spec, templates, 0, 1, 2)
}

fn fill(flow: &mut Flow) -> u64 {
    flow.fill(5, usize::MAX, &mut Vec::new())
}

#[test]
fn fills_up_to_the_window_and_again_what_was_delivered() {
    let mut flow = flow(QoS::AtMostOnce, 3, 1);
    assert_eq!(fill(&mut flow), 3);
    assert_eq!(fill(&mut flow), 0);
    flow.delivered(0, Seen::Fresh);
    flow.delivered(1, Seen::Fresh);
    assert_eq!(fill(&mut flow), 2);
    assert_eq!(flow.sent(), 5);
}

#[test]
fn each_receiver_counts() {
    let mut flow = flow(QoS::AtMostOnce, 1, 2);
    fill(&mut flow);
    flow.delivered(0, Seen::Fresh);
    assert_eq!(flow.outstanding(), 1);
    flow.delivered(0, Seen::Fresh);
    assert_eq!(flow.outstanding(), 0);
    flow.delivered(0, Seen::Fresh);
    assert_eq!(flow.outstanding(), 0);
}

#[test]
fn an_acknowledged_flow_waits_for_both_in_any_order() {
    let mut flow = flow(QoS::AtLeastOnce, 4, 1);
    fill(&mut flow);
    flow.acknowledged(1);
    assert_eq!(flow.outstanding(), 4);
    flow.delivered(1, Seen::Fresh);
    flow.delivered(0, Seen::Fresh);
    assert_eq!(flow.outstanding(), 3);
    flow.acknowledged(2);
    assert_eq!(flow.outstanding(), 2);
}

#[test]
fn what_the_broker_did_not_take_on_is_known() {
    let mut flow = flow(QoS::AtLeastOnce, 4, 2);
    fill(&mut flow);
    flow.acknowledged(1);
    flow.delivered(1, Seen::Fresh);
    flow.acknowledged(3);
    let expected = Unacknowledged { messages: 2, deliveries: 3 };
    assert_eq!(flow.unacknowledged(), expected);
}

#[test]
fn frames_carry_their_own_sequence_and_packet_identifier() {
    let mut flow = flow(QoS::AtLeastOnce, 2, 1);
    let mut out = Vec::new();
    flow.fill(77, usize::MAX, &mut out);
    for (n, frame) in out.chunks(flow.frame_len()).enumerate() {
        let payload = &frame[frame.len() - 64..];
        let head = PayloadHead::decode(payload).unwrap();
        let expected = PayloadHead {
            machine: this_machine(),
            run: 1,
            publisher: 2,
            sequence: n as u64,
            sent_ns: 77,
        };
        assert_eq!(head, expected);
        assert_eq!(&frame[7..9], &(n as u16 + 1).to_be_bytes());
    }
}

#[test]
fn an_open_loop_counts_from_when_a_message_was_due() {
    let spec = FlowSpec {
        rate: Some(1e3),
        topics: 3,
        limit: Some(7),
        ..FlowSpec::new("a".into(), QoS::AtMostOnce, 64, 64)
    };
    let templates = wire::publish_templates(Version::V5, &spec);
    let mut flow = Flow::new(&spec, templates, 0, 1, 2);
    assert_eq!(fill(&mut flow), 0);
    flow.start(1_000_000, 0.0);
    let mut out = Vec::new();
    // The sender comes 3.5 intervals late.
    assert_eq!(flow.fill(4_500_000, usize::MAX, &mut out), 4);
    for (n, frame) in out.chunks(flow.frame_len()).enumerate() {
        let head = PayloadHead::decode(&frame[frame.len() - 64..]).unwrap();
        assert_eq!(head.sent_ns, 1_000_000 * (n as u64 + 1));
        assert_eq!(&frame[4..14], format!("a/{:08}", n % 3).as_bytes());
    }
    assert_eq!(flow.next_due_ns(), Some(5_000_000));
    assert_eq!(flow.unsent(7_500_000), 3);
    let waits = |at| flow.overdue(at).map(|one| (one.due_ns, one.receivers)).collect::<Vec<_>>();
    let overdue: Vec<(u64, u32)> = (1..8).map(|n| (n * 1_000_000, 1)).collect();
    assert_eq!(waits(7_500_000), overdue);
    assert_eq!(flow.late(), 3);
    assert_eq!(flow.fill(7_900_000, usize::MAX, &mut out), 3);
    assert_eq!(flow.late(), 5);
    assert_eq!(flow.unsent(9_000_000), 0);
    assert_eq!(flow.next_due_ns(), None);
}

/// The end of a run hides no stall.
#[test]
fn what_was_sent_and_has_not_come_is_overdue() {
    let spec = FlowSpec {
        receivers: 2,
        rate: Some(1_000.0),
        times_acknowledgements: true,
        ..FlowSpec::new("a".into(), QoS::AtLeastOnce, 64, 2)
    };
    let templates = wire::publish_templates(Version::V5, &spec);
    let mut flow = Flow::new(&spec, templates, 0, 1, 2);
    flow.start(1_000_000, 0.0);
    assert_eq!(flow.fill(4_500_000, usize::MAX, &mut Vec::new()), 2);
    flow.acknowledged(1);
    flow.delivered(0, Seen::Fresh);
    let expected = [(1, 1, false), (2, 2, true), (3, 2, true), (4, 2, true)];
    let expected = expected.map(|(ms, receivers, is_unacknowledged)| Overdue {
        due_ns: ms * 1_000_000,
        receivers,
        is_unacknowledged,
    });
    assert_eq!(flow.overdue(4_500_000).collect::<Vec<_>>(), expected);
    flow.delivered(0, Seen::Fresh);
    assert_eq!(flow.overdue(4_500_000).count(), 3);
}

fn welcome() -> Welcome {
    Welcome {
        reason: sluice::mqtt::ReasonCode::Success,
        receive_maximum: u16::MAX,
        maximum_packet_size: u32::MAX,
        maximum_qos: QoS::ExactlyOnce,
        retain_available: true,
        keep_alive_seconds: None,
    }
}

/// `[MQTT-3.3.4-9]`, and what QoS 0 has nothing to do with.
#[test]
fn no_more_is_unacknowledged_than_receive_maximum() {
    for (qos, sent) in [(QoS::AtLeastOnce, 20), (QoS::ExactlyOnce, 20), (QoS::AtMostOnce, 64)] {
        let mut flow = flow(qos, 64, 1);
        flow.heed(&Welcome { receive_maximum: 20, ..welcome() }).unwrap();
        assert_eq!(fill(&mut flow), sent);
    }
}

/// `[MQTT-3.2.2-15]`, `[MQTT-3.2.2-11]`, `[MQTT-3.2.2-14]`
#[test]
fn what_the_broker_cannot_take_is_not_sent() {
    let mut flow = flow(QoS::AtLeastOnce, 1, 1);
    flow.retain = true;
    let most = flow.frame_len() as u32;
    assert!(flow.heed(&Welcome { maximum_packet_size: most, ..welcome() }).is_ok());
    assert!(flow.heed(&Welcome { maximum_packet_size: most - 1, ..welcome() }).is_err());
    assert!(flow.heed(&Welcome { maximum_qos: QoS::AtMostOnce, ..welcome() }).is_err());
    assert!(flow.heed(&Welcome { retain_available: false, ..welcome() }).is_err());
}

#[test]
fn several_contents_are_sent_in_turn() {
    let contents = vec![b"one".to_vec(), b"three".to_vec()];
    let spec = FlowSpec { contents, ..FlowSpec::new("a".into(), QoS::AtMostOnce, 0, 3) };
    let templates = wire::publish_templates(Version::V311, &spec);
    let mut flow = Flow::new(&spec, templates, 0, 1, 2);
    let mut out = Vec::new();
    flow.fill(1, usize::MAX, &mut out);
    assert_eq!(out, b"\x30\x06\0\x01aone\x30\x08\0\x01athree\x30\x06\0\x01aone");
}

#[test]
fn acknowledgements_are_timed_once() {
    let spec = FlowSpec {
        times_acknowledgements: true,
        receivers: 0,
        ..FlowSpec::new("a".into(), QoS::AtLeastOnce, 64, 4)
    };
    let templates = wire::publish_templates(Version::V311, &spec);
    let mut flow = Flow::new(&spec, templates, 0, 1, 2);
    fill(&mut flow);
    assert_eq!(flow.acknowledged(2), Some(5));
    assert_eq!(flow.acknowledged(2), None);
}

#[test]
fn what_was_given_up_may_still_arrive() {
    let mut flow = flow(QoS::AtMostOnce, 2, 1);
    fill(&mut flow);
    assert_eq!(flow.stalled_checks(), 1);
    assert_eq!(flow.stalled_checks(), 2);
    flow.give_up_outstanding();
    assert_eq!(fill(&mut flow), 2);
    flow.delivered(0, Seen::Fresh);
    assert_eq!(flow.outstanding(), 2);
    flow.delivered(2, Seen::Fresh);
    assert_eq!(flow.outstanding(), 1);
    assert_eq!(flow.stalled_checks(), 0);
    assert_eq!(flow.stalled_checks(), 1);
}

/// `[MQTT-4.6.0-6]`
#[test]
fn what_was_passed_over_is_waited_for_only_where_it_is_reliable_and_has_no_order() {
    for (qos, ordered, outstanding) in
        [(QoS::AtMostOnce, false, 1), (QoS::AtLeastOnce, true, 1), (QoS::AtLeastOnce, false, 4)]
    {
        let spec = FlowSpec { ordered, ..FlowSpec::new("a/b".into(), qos, 64, 4) };
        let templates = wire::publish_templates(Version::V311, &spec);
        let mut flow = Flow::new(&spec, templates, 0, 1, 2);
        fill(&mut flow);
        for packet_id in 1..=4 {
            flow.acknowledged(packet_id);
        }
        flow.passed_over(0..2);
        flow.delivered(2, Seen::Fresh);
        assert_eq!(flow.outstanding(), outstanding);
        flow.delivered(0, Seen::Late);
        flow.delivered(1, Seen::Late);
        assert_eq!(flow.outstanding(), 1);
    }
}
