//! Reading queues back, a page at a time.

use hashbrown::HashMap;

use super::record::{Decoder, Epoch, place_key, split_number};
use crate::hooks::{Store, StoreError, Table};
use crate::mqtt::Message;
use crate::session::{PageOfQueue, PageRequest, SessionNumber};

/// A page, and what has to be set aside because it cannot be read.
pub(super) struct Read {
    pub(super) page: PageOfQueue,
    pub(super) damaged: Vec<(Table, Vec<u8>, Vec<u8>)>,
    /// Queued records of messages that are not there, with the numbers of those.
    pub(super) stray: Vec<(Vec<u8>, u64)>,
}

/// Reads what a session has queued, up to the place `until`, where something is not committed yet.
pub(super) fn read(
    store: &dyn Store,
    request: &PageRequest,
    until: Option<u64>,
    epoch: Epoch,
) -> Result<Read, StoreError> {
    let mut page = PageOfQueue { end: request.from, ..PageOfQueue::default() };
    let mut damaged = Vec::new();
    let mut found = Vec::new();
    page.is_last = true;
    each_queued(store, request.session, request.from, |place, key, value| {
        if found.len() >= request.messages as usize || until.is_some_and(|until| place >= until) {
            page.is_last = false;
            return false;
        }
        page.end = place + 1;
        let fields = Decoder::open(Table::Queued, key, value, epoch)
            .and_then(|mut decoder| decoder.queued());
        match fields {
            Some(fields) => found.push((place, key.to_vec(), fields)),
            None => {
                page.lost += 1;
                damaged.push((Table::Queued, key.to_vec(), value.to_vec()));
            }
        }
        true
    })?;
    page.is_last &= until.is_none();
    let mut stray = Vec::new();
    let mut messages = HashMap::new();
    let mut bytes = 0;
    for (place, key, fields) in found {
        if bytes >= request.bytes && bytes > 0 {
            (page.end, page.is_last) = (place, false);
            break;
        }
        let number = fields.message;
        let message = match messages.get(&number) {
            Some(message) => Some(Message::clone(message)),
            None => message(store, number, epoch, &mut damaged)?,
        };
        let Some(message) = message else {
            page.lost += 1;
            stray.push((key, number));
            continue;
        };
        bytes += message.size() as u64;
        messages.insert(number, message.clone());
        page.messages.push((place, fields.of(message)));
    }
    Ok(Read { page, damaged, stray })
}

/// The message with a number, if it is there and whole.
pub(super) fn message(
    store: &dyn Store,
    number: u64,
    epoch: Epoch,
    damaged: &mut Vec<(Table, Vec<u8>, Vec<u8>)>,
) -> Result<Option<Message>, StoreError> {
    let key = number.to_be_bytes();
    let Some(value) = store.get(Table::Messages, &key)? else { return Ok(None) };
    let message = Decoder::open(Table::Messages, &key, &value, epoch)
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
        split_number(rest).is_none_or(|(place, _)| each(place, key, value))
    })
}
