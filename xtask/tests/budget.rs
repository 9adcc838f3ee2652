//! The budget of flows: a container that opens flows without end leaves its neighbours theirs.

#[path = "holes/ground.rs"]
#[expect(dead_code, reason = "shared with the holes, which use more of it")]
mod ground;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::time::Duration;

use ground::Ground;
use serde_json::Value;
use xtask::lab::{OUTSIDE, Place};

/// Flows that the flooder opens, unless `FW_FLOOD` says otherwise.
const FLOOD: u32 = 100_000;

#[test]
fn a_flood_of_flows_leaves_those_of_a_neighbour_alone() {
    let Some(ground) = Ground::start("a_flood_of_flows_leaves_those_of_a_neighbour_alone") else { return };
    let lab = &ground.lab;
    let flows = std::env::var("FW_FLOOD").map_or(FLOOD, |count| count.parse().expect("FW_FLOOD is a number"));
    let _daemon = lab.fw_run(POLICY).expect("fw");

    // A connection on which only R will speak, and a datagram that R has not answered yet.
    let listener = lab.outside().within(|| TcpListener::bind("[::]:5443")).expect("R").expect("a listener");
    let client = ground.a2.place.connect((OUTSIDE, 5443).into()).expect("a connection");
    let (mut server, _) = listener.accept().expect("a connection");
    client.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    let answers = lab.outside().within(|| UdpSocket::bind("0.0.0.0:5444")).expect("R").expect("a socket");
    let asks = ground.a2.place.within(|| UdpSocket::bind("0.0.0.0:0")).expect("a2").expect("a socket");
    asks.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    asks.send_to(b"?", (OUTSIDE, 5444)).expect("a datagram");
    let (_, asker) = answers.recv_from(&mut [0; 16]).expect("a datagram");

    let first = FLOOD.min(flows);
    let mut sent = flood(&ground.a1.place, 0..first);
    // A datagram's flow has 25 seconds of its own, the connection has days.
    answers.send_to(b"!", asker).expect("an answer");
    asks.recv_from(&mut [0; 16]).expect("R's answer reaches a2");
    sent += flood(&ground.a1.place, first..flows);
    server.write_all(b"late\n").expect("a write");
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).expect("R's data reach a2");
    let dropped = lab.fw_drops().expect("the drop counters");
    assert_eq!(dropped.get(&("uplink_ingress".to_owned(), "port-not-allowed".to_owned())), None);

    let table: Value =
        serde_json::from_str(&lab.fw(&["table", "flows", "--json"]).expect("flows")).expect("JSON");
    let rows = table.as_array().expect("rows");
    let counted = |to: &str| -> Vec<u64> {
        let of =
            rows.iter().filter(|row| row["remote"].as_str().is_some_and(|remote| remote.starts_with(to)));
        of.filter_map(|row| row["counted_as"].as_u64()).collect()
    };
    let (flooder, neighbour) = (counted("203.0."), counted(&OUTSIDE.to_string()));
    println!(
        "{sent} flows sent, {} of them in the table; the neighbour's: {}",
        flooder.len(),
        neighbour.len()
    );
    assert!(flooder.len() <= BUDGET, "the flooder keeps to its budget");
    assert!(flooder.len() > BUDGET / 2, "and uses it");
    let number = flooder[0];
    assert!(number < 65_534 && flooder.iter().all(|other| *other == number), "the number came along");
    assert!(!neighbour.is_empty() && !neighbour.contains(&number), "{neighbour:?}");
    lab.fw_down().expect("fw down");
}

/// Datagrams to so many different tuples, as fast as a socket sends them; how many left.
fn flood(from: &Place, numbers: Range<u32>) -> usize {
    let socket = from.within(|| UdpSocket::bind("0.0.0.0:0")).expect("the flooder").expect("a socket");
    let to = |number: u32| (Ipv4Addr::from(0xcb00_0000 | (number >> 15)), (number & 0x7fff) as u16 + 1024);
    numbers.filter(|number| socket.send_to(b"flood", to(*number)).is_ok()).count()
}

const BUDGET: usize = 1024;

/// With a small table, so that a flood of few flows would push everybody out of it.
const POLICY: &str = "[tables]\nflows = 8192\nflows_per_container = 1024\n";
