//! Passes of the daemon: a policy that does not fit, Docker that answers in part.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use xtask::lab::{BPFFS, HOST, Outcome, wait};

use crate::ground::{Ground, POLICY};

/// Z12: a policy that cannot be put into tables changes nothing, and Docker is followed as before.
#[test]
fn policy_that_does_not_fit_stops_nothing() {
    let Some(ground) = Ground::start("policy_that_does_not_fit_stops_nothing") else { return };
    let lab = &ground.lab;
    let with_sets = |third: u8| {
        let mut policy = POLICY.to_owned();
        let mut sets = String::new();
        for set in 0..40 {
            writeln!(sets, "s{set} = [\"10.99.{third}.{set}/32\"]").expect("text");
            write!(
                policy,
                "\n[[allow]]\nname = \"r{set}\"\nproto = \"tcp\"\nports = [{}]\nfrom = [\"s{set}\"]\n",
                3000 + set
            )
            .expect("text");
        }
        policy = policy.replace("ports = [8080]", "ports = [8080, 8097]");
        policy.replace("[sets]\n", &format!("[sets]\n{sets}"))
    };
    let daemon = lab.fw_run(&with_sets(1)).expect("fw");
    fs::write(lab.path("/run/lab/policy.toml"), with_sets(2)).expect("another policy");
    daemon.signal("HUP").expect("a signal");
    wait::pass(Duration::from_secs(2));
    let late = lab.container("late", &["--network=A", "-p=8097:80"]).expect("a container");
    let _server = late.place.serve_tcp("[::]:80", "late").expect("a server");
    let port = lab.port_of(&late).expect("a port");
    let index = lab.host().run(&["cat", &format!("/sys/class/net/{port}/ifindex")]).expect("an index");
    let pin = lab.path(&format!("{BPFFS}/hooks/port_ingress-{}", index.trim()));
    let hooked = wait::until("the port of the new container is hooked", Duration::from_secs(15), || {
        pin.exists().then_some(())
    });
    assert!(hooked.is_ok(), "no container is followed any more:\n{}", lab.fw_log());
    assert!(lab.outside().tcp((HOST, 8097).into()).expect("a probe").reached_at("late"));
}

/// A daemon that starts while Docker answers only the question for its version keeps the tables of the last one.
#[test]
fn docker_that_stalls_at_the_start_clears_nothing() {
    let Some(ground) = Ground::start("docker_that_stalls_at_the_start_clears_nothing") else { return };
    let lab = &ground.lab;
    let daemon = ground.fw();
    let a1: IpAddr = ground.a1.ip6().expect("an address");
    assert_eq!(
        lab.outside().tcp((a1, 81).into()).expect("a probe"),
        Outcome::Silent,
        "direct access is closed"
    );
    assert!(lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached_at("a1"));
    daemon.kill().expect("SIGKILL");
    assert_eq!(lab.outside().tcp((a1, 81).into()).expect("a probe"), Outcome::Silent, "fw is dead");

    let (stalled, real) = (lab.path("/run/lab/stalled.sock"), lab.path("/run/docker.sock"));
    let listener = UnixListener::bind(&stalled).expect("a socket");
    thread::spawn(move || {
        let mut held = Vec::new();
        for client in listener.incoming().flatten() {
            held.extend(version_only(client, &real));
        }
    });
    let binary = xtask::lab::fw_binary().expect("fw");
    let mut child = lab
        .host()
        .command(&binary.display().to_string())
        .args(["run", "--policy", "/run/lab/policy.toml", "--docker", "unix:///run/lab/stalled.sock"])
        .args(["--bpffs", BPFFS])
        .spawn()
        .expect("fw");
    wait::pass(Duration::from_secs(12));
    let status = lab.fw(&["status"]).unwrap_or_else(|error| format!("{error:#}"));
    let direct = lab.outside().tcp((a1, 81).into()).expect("a probe");
    let published = lab.outside().tcp((HOST, 8080).into()).expect("a probe");
    child.kill().ok();
    child.wait().ok();
    assert_eq!(direct, Outcome::Silent, "direct access has opened; published: {published:?}\n{status}");
    assert!(published.reached_at("a1"), "the published port is gone\n{status}");
}

/// Hands a question for the version on, and keeps every other waiting for ever.
fn version_only(mut client: UnixStream, real: &std::path::Path) -> Option<UnixStream> {
    let mut question = [0; 4096];
    let length = client.read(&mut question).ok()?;
    let question = &question[..length];
    if !question.windows(8).any(|window| window == b"/version") {
        return Some(client);
    }
    let text = String::from_utf8_lossy(question).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let mut docker = UnixStream::connect(real).ok()?;
    docker.write_all(text.as_bytes()).ok()?;
    let mut answer = Vec::new();
    docker.read_to_end(&mut answer).ok()?;
    client.write_all(&answer).ok()?;
    None
}
