//! The codec: what each message costs it.
#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::mqtt::{
    AckKind, Limits, Message, PacketId, Property, PublishOut, QoS, ReasonCode, Version, decode_ack,
    decode_connect, decode_publish, encode_ack, encode_publish, frame_head, topic,
};
use sluice::timer::Time;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TOPIC: &[u8] = b"bench/sensors/17/value";
const PAYLOAD: &[u8] = &[0x55; 64];

fn properties() -> Vec<u8> {
    let mut block = Vec::new();
    Property::ContentType("application/json").encode(&mut block);
    Property::UserProperty("source", "sensor-17").encode(&mut block);
    block
}

fn publishes() -> Vec<(&'static str, Version, PublishOut<'static>)> {
    let plain = PublishOut::new(TOPIC, PAYLOAD);
    let id = PacketId::new(77);
    let qos1 = PublishOut { qos: QoS::AtLeastOnce, packet_id: id, ..plain };
    let properties = PublishOut { properties: properties().leak(), ..plain };
    vec![
        ("3.1.1 qos 0", Version::V311, plain),
        ("3.1.1 qos 1", Version::V311, qos1),
        ("5.0 qos 0", Version::V5, plain),
        ("5.0 properties", Version::V5, properties),
    ]
}

fn publish(c: &mut Criterion) {
    let limits = Limits::default();
    for (name, version, publish) in publishes() {
        let mut out = Vec::with_capacity(1 << 16);
        c.bench_function(&format!("encode publish {name}"), |b| {
            b.iter(|| {
                if out.len() > 60_000 {
                    out.clear();
                }
                encode_publish(black_box(version), black_box(&publish), &mut out);
            });
        });
        out.clear();
        encode_publish(version, &publish, &mut out);
        c.bench_function(&format!("decode publish {name}, head and body"), |b| {
            b.iter(|| {
                let frame = black_box(&out[..]);
                let head = frame_head(frame, limits.max_packet_size).unwrap().unwrap();
                let body = &frame[usize::from(head.head_len)..head.frame_len()];
                decode_publish(black_box(version), head.first_byte, body, &limits)
                    .map(|publish| (black_box(publish.topic), black_box(publish.payload)).0.len())
            });
        });
    }
}

fn acks(c: &mut Criterion) {
    let limits = Limits::default();
    let id = PacketId::MIN;
    let mut out = Vec::with_capacity(1 << 16);
    c.bench_function("encode ack", |b| {
        b.iter(|| {
            if out.len() > 60_000 {
                out.clear();
            }
            let version = black_box(Version::V5);
            encode_ack(version, AckKind::PubAck, black_box(id), ReasonCode::Success, &mut out);
        });
    });
    c.bench_function("decode ack, head and body", |b| {
        b.iter(|| {
            let frame = black_box(&[0x40u8, 2, 0, 1][..]);
            let head = frame_head(frame, limits.max_packet_size).unwrap().unwrap();
            let body = &frame[usize::from(head.head_len)..head.frame_len()];
            decode_ack(black_box(Version::V5), AckKind::PubAck, body, &limits)
                .map(|ack| ack.packet_id)
        });
    });
}

fn rest(c: &mut Criterion) {
    let limits = Limits::default();
    c.bench_function("decode connect 3.1.1", |b| {
        let body = b"\0\x04MQTT\x04\x02\0\x3C\0\x09client-42";
        b.iter(|| decode_connect(black_box(&body[..]), &limits).map(|connect| connect.keep_alive));
    });
    c.bench_function("check topic name", |b| {
        b.iter(|| topic::check_name(black_box(TOPIC), &limits).map(str::len));
    });
    let mut frame = Vec::new();
    encode_publish(Version::V311, &PublishOut::new(TOPIC, PAYLOAD), &mut frame);
    let publish = decode_publish(Version::V311, 0x30, &frame[2..], &limits).unwrap();
    c.bench_function("message from publish, and drop", |b| {
        b.iter(|| {
            Message::from_publish(black_box(&publish), "bench/sensors/17/value", None, Time(0))
        });
    });
    let message = Message::from_publish(&publish, "bench/sensors/17/value", None, Time(0));
    c.bench_function("message topic bytes and payload", |b| {
        b.iter(|| {
            let message = black_box(&message);
            message.topic_bytes().len() + message.payload().len()
        });
    });
    c.bench_function("message clone and drop", |b| b.iter(|| black_box(&message).clone()));
}

criterion_group!(benches, publish, acks, rest);
criterion_main!(benches);
