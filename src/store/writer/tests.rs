use super::*;
use crate::mqtt::{Message, QoS};
use crate::session::QueuedRecord;
use crate::store::{Memory, PROGRESS_RECORDS, recover};

#[test]
fn what_waited_for_a_store_that_failed_takes_no_memory_when_it_works() {
    const COUNT: u64 = 10_000;
    let memory = Memory::default();
    let opened = memory.clone();
    let open = Box::new(move || Ok(Box::new(opened.clone()) as Box<dyn Store>));
    let (_, mut writer, links) =
        recover(open, Commit::Disk, Epoch::default(), 1, PROGRESS_RECORDS).expect("empty");
    memory.fail(Some("no space left"));
    let queued = |place| {
        let message = Message::new("t", QoS::AtLeastOnce, false, b"", b"", None, Time(0));
        let record = QueuedRecord {
            message,
            qos: QoS::AtLeastOnce,
            retain: false,
            identifiers: Box::default(),
            group: None,
            share: None,
            packet_id: None,
            number: 0,
            paged: true,
        };
        Change::Queued(1, place, Box::new(record))
    };
    let changes: Vec<_> = (1..=COUNT).map(queued).collect();
    links[0].submit(Turn { turn: 1, changes: changes.into(), ..Turn::default() });
    writer.step();
    assert!(links[0].is_failing() && writer.staging.room() > COUNT as usize);
    memory.fail(None);
    writer.step();
    assert_eq!((links[0].committed(), writer.staging.room()), (1, 0));
}
