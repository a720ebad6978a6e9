//! A whole broker of two shards, in memory and on virtual time, with two clients that send whatever
//! the input says. Afterwards two well-behaved clients must be served, and everything must end.

mod client;
mod world;

use std::time::Duration;

use sluice::net::sim::Faults;

use crate::input::Input;

use self::client::Client;
use self::world::Broker;

/// Runs the broker and its clients.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut broker = Broker::start(&mut input);
    // In a session of its own that nobody can guess, it is there from the start.
    let mut resident = Client::witness(&mut broker, "resident-74c1f0e2");
    resident.subscribe(&mut broker);
    broker.set_faults(&mut input);

    let mut clients = [Client::connect(&mut broker), Client::connect(&mut broker)];
    while !input.is_empty() {
        let op = input.byte();
        let client = &mut clients[usize::from(op & 1)];
        act(&mut broker, client, op >> 1, &mut input);
        clients.iter_mut().for_each(|client| client.flush(&broker.world));
        resident.receive(&broker.world);
    }
    broker.settle();

    broker.world.heal();
    resident.receive(&broker.world);
    let mut visitor = Client::witness(&mut broker, "visitor-e90b35d7");
    visitor.subscribe(&mut broker);
    if resident.is_gone(&broker.world) {
        // Such is the network.
        resident = Client::witness(&mut broker, "returned-5dd02a96");
        resident.subscribe(&mut broker);
    }
    Client::publish_between(&mut broker, &mut visitor, &mut resident);
    Client::publish_between(&mut broker, &mut resident, &mut visitor);

    for client in &mut clients {
        client.stall(&broker.world, false);
        client.receive(&broker.world);
        client.close(&broker.world, false);
    }
    resident.close(&broker.world, false);
    visitor.close(&broker.world, true);
    broker.run_for(Duration::from_secs(10));
    assert_eq!(broker.world.connections(), 0, "connections of clients that are gone");
    broker.stop();
}

fn act(broker: &mut Broker, client: &mut Client, op: u8, input: &mut Input<'_>) {
    match op % 16 {
        0..=2 => {
            let len = usize::from(input.byte());
            client.send(&broker.world, input.bytes(len));
        }
        3 | 4 => client.send_connect(&broker.world, input),
        5 | 6 => client.send_publish(&broker.world, input),
        7 => client.send_subscribe(&broker.world, input),
        8 => client.send_acks(&broker.world, input),
        9 => drop(broker.turn(input.below(2))),
        10 => broker.settle(),
        11 => {
            broker.run_for(Duration::from_millis(u64::from(input.number())));
        }
        12 => client.stall(&broker.world, input.byte() & 1 == 1),
        13 => client.close(&broker.world, input.byte() & 1 == 1),
        14 => {
            client.vanish(&broker.world);
            *client = Client::connect(broker);
        }
        _ => {
            broker.settle();
            client.receive(&broker.world);
        }
    }
}

/// Which faults the network has.
fn faults(bits: u8) -> Faults {
    match bits % 4 {
        0 | 1 => Faults::NONE,
        2 => Faults::default(),
        _ => Faults { reset: 0.02, ..Faults::default() },
    }
}
