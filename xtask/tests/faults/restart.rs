//! Docker without live-restore: in the end its containers end with it, and those with a restart policy come back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use xtask::lab::table::Table;
use xtask::lab::{self, HOST, HOST6, Lab, Options, wait};

use crate::ground::POLICY;
use crate::story::problems;

#[test]
fn containers_come_back_with_dockerd_and_leak_nothing() {
    if !lab::available("containers_come_back_with_dockerd_and_leak_nothing") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    lab.network("A", &["--subnet=10.1.0.0/24", "--ipv6", "--subnet=2001:db8:1::/64"]).expect("a network");
    // It serves by itself from its first moment on, and notes who came to the port that nobody may reach.
    let serve = "nc -ll -p 7001 -e sh -c 'echo hit >>/heard' & exec nc -ll -p 80 -e echo a1";
    let options = ["--network=A", "--ip=10.1.0.9", "--ip6=2001:db8:1::9", "--restart=always", "-p=8080:80"];
    // The first process of a container does not end by itself.
    let options = [&options[..], &["-p=8443:7001", "--stop-signal=KILL"]].concat();
    lab.container_running("a1", &options, &["sh", "-c", serve]).expect("a container");
    let mut daemon = Some(lab.fw_run(POLICY).expect("fw"));
    let mut table = Table::new(&["row", "fault", "leaked", "probes", "healed after"]);
    for (row, what, signal) in [
        ("L01", "dockerd restarts, its containers with it", "TERM"),
        ("L02", "dockerd is killed; containers go on, and are started anew", "KILL"),
        ("Z26", "containers are there before the daemon, as at boot, pins in force", "TERM"),
    ] {
        let (stop, probes) = (AtomicBool::new(false), AtomicU64::new(0));
        let healed = thread::scope(|scope| {
            scope.spawn(|| knock(&lab, &stop, &probes));
            if row == "Z26" {
                daemon.take().expect("fw runs").kill().expect("SIGKILL");
            }
            lab.signal_docker(signal).expect("a signal");
            assert_eq!(reached(&lab), signal == "KILL", "{row}: containers after SIG{signal}");
            lab.docker_again(&[]).expect("dockerd");
            let begun = Instant::now();
            wait::until("the container is reached again", PATIENCE, || reached(&lab).then_some(()))
                .expect(row);
            if row == "Z26" {
                daemon = Some(lab.fw_run(POLICY).expect("fw"));
            }
            let well = || problems(&lab, &[]).is_empty().then_some(());
            wait::until("no problem", PATIENCE, well)
                .unwrap_or_else(|e| panic!("{e:#}: {:?}", problems(&lab, &[])));
            let endpoints = lab.fw(&["table", "endpoints"]).expect("a table");
            assert!(endpoints.contains("10.1.0.9") && endpoints.contains("2001:db8:1::9"), "{endpoints}");
            stop.store(true, Ordering::Relaxed);
            begun.elapsed()
        });
        let heard =
            || lab.docker(&["exec", "a1", "sh", "-c", "cat /heard 2>/dev/null; true"]).expect("docker");
        let leaked = heard().lines().count();
        let a1 = lab.inspect("a1").expect("a container");
        lab.host().connect((a1.ip().expect("an address"), 7001).into()).expect("the twin gets in");
        wait::until("the twin is heard", PATIENCE, || (heard().lines().count() > leaked).then_some(()))
            .expect(row);
        lab.docker(&["exec", "a1", "rm", "/heard"]).expect("docker");
        let probes = probes.load(Ordering::Relaxed);
        table.row(&[&row, &what, &leaked, &probes, &format!("{} ms", healed.as_millis())]);
        assert_eq!(leaked, 0, "{row}: {leaked} of {probes}");
        assert!(probes > 400, "{row}: only {probes} probes");
    }
    println!("{table}");
}

fn reached(lab: &Lab) -> bool {
    lab.outside().tcp((HOST, 8080).into()).is_ok_and(|outcome| outcome.reached_at("a1"))
}

/// Opens connections from R to the port that nobody may reach, by every address, over a hundred times a second each.
fn knock(lab: &Lab, stop: &AtomicBool, probes: &AtomicU64) {
    let doors: [SocketAddr; 4] = [
        (HOST, 8443).into(),
        (HOST6, 8443).into(),
        "10.1.0.9:7001".parse().expect("an address"),
        "[2001:db8:1::9]:7001".parse().expect("an address"),
    ];
    let knock = || {
        // A SYN is on its way as long as its socket is.
        let mut knocking: VecDeque<OwnedFd> = VecDeque::new();
        while !stop.load(Ordering::Relaxed) {
            for door in doors {
                let family = if door.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let socket = socket(family, SockType::Stream, flags, None).expect("a socket");
                // In progress, or nobody is there at this moment.
                connect(socket.as_raw_fd(), &SockaddrStorage::from(door)).ok();
                knocking.push_back(socket);
                probes.fetch_add(1, Ordering::Relaxed);
            }
            knocking.drain(..knocking.len().saturating_sub(OPEN));
            wait::pass(Duration::from_millis(8));
        }
    };
    lab.outside().within(knock).expect("R's network");
}

const OPEN: usize = 200;
const PATIENCE: Duration = Duration::from_secs(30);
