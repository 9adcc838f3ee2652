//! D41: a published UDP port moves to another container while somebody goes on sending to it.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use xtask::lab::{OUTSIDE, wait};

use crate::ground::Ground;
use crate::ways::host;

/// Whoever gets the address that the port led to must not get what is sent to the port.
#[test]
fn a_udp_port_moves_and_never_leads_to_the_wrong_container() {
    let Some(ground) = Ground::start("a_udp_port_moves_and_never_leads_to_the_wrong_container", true) else {
        return;
    };
    let lab = &ground.lab;
    let _daemon = ground.fw("");
    let sender = Sender::default();
    thread::scope(|scope| {
        let sending = scope.spawn(|| lab.outside().within(|| sender.run()));
        let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            sender.is_answered_by("a1");
            let address = ground.a1.v4.expect("a1 has an address").to_string();
            lab.docker(&["rm", "-f", "a1"]).expect("a1 is gone");
            let thief = lab.container("thief", &["--network=A", &format!("--ip={address}")]);
            let thief = thief.expect("a container").place.serve_udp("[::]:5353", "thief").expect("a server");
            let new = lab.container("new", &["--network=B", "-p=5353:5353/udp"]).expect("a container");
            let new = new.place.serve_udp("[::]:5353", "new").expect("a server");
            // docker-proxy may serve the first of them, from the host; our rules show who sends.
            wait::until("the new container sees R itself", Duration::from_secs(20), || {
                new.heard().iter().any(|heard| heard.from.ip() == IpAddr::from(OUTSIDE)).then_some(())
            })
            .unwrap_or_else(|error| {
                let connections = lab.host().run(&["cat", "/proc/net/nf_conntrack"]).unwrap_or_default();
                let drops = lab.fw_drops();
                panic!("{error:#}\n{connections}\n{drops:?}\n{}\n{}", lab.fw_log(), ground.rules())
            });
            sender.is_answered_by("new");
            assert!(thief.heard().is_empty(), "heard by the wrong container: {:?}", thief.heard());
        }));
        sender.stop.store(true, Ordering::Relaxed);
        sending.join().expect("the sender does not panic").expect("R's network");
        if let Err(panic) = moved {
            std::panic::resume_unwind(panic);
        }
    });
}

/// D43: a container that is published over one network leaves it, and is published over the other, and back.
#[test]
fn a_port_follows_its_container_to_another_network() {
    let Some(ground) = Ground::start("a_port_follows_its_container_to_another_network", true) else { return };
    let lab = &ground.lab;
    lab.docker(&["network", "connect", "B", "a1"]).expect("docker");
    let _daemon = ground.fw("");
    let reached = |what: &str| {
        let begun = Instant::now();
        let again = || lab.outside().tcp(host(8080)).is_ok_and(|by| by.reached_at("a1")).then_some(());
        wait::until(what, Duration::from_secs(15), again).unwrap_or_else(|error| {
            panic!("{error:#}\n{:?}\n{}\n{}", lab.fw_drops(), lab.fw_log(), ground.rules())
        });
        println!("{what} after {} ms", begun.elapsed().as_millis());
    };
    reached("reached over A");
    lab.docker(&["network", "disconnect", "A", "a1"]).expect("docker");
    reached("reached over B");
    lab.docker(&["network", "connect", "A", "a1"]).expect("docker");
    reached("reached over A again");
}

/// R, which sends to the port from one port of its own without a pause.
#[derive(Default)]
struct Sender {
    stop: AtomicBool,
    answers: Mutex<Vec<String>>,
}

impl Sender {
    fn run(&self) {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let mut buffer = [0; 64];
        while !self.stop.load(Ordering::Relaxed) {
            // While nobody serves the port, errors come back for either.
            socket.send_to(b"who\n", host(5353)).ok();
            if let Ok(length) = socket.recv(&mut buffer) {
                let answer = String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned();
                self.answers.lock().expect("no panic").push(answer);
            }
        }
    }

    fn is_answered_by(&self, name: &str) {
        wait::until(&format!("an answer of {name}"), Duration::from_secs(10), || {
            self.answers.lock().expect("no panic").iter().any(|answer| answer == name).then_some(())
        })
        .expect("R's datagrams arrive");
    }
}
