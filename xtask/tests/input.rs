//! A running fw under bad input and changing policies: what was in force stays in force, and says so.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use xtask::lab::tcx::Direction;
use xtask::lab::{self, BPFFS, HOST, Lab, Options, Town, wait};

const FILE: &str = "/run/lab/policy.toml";

const CLOSED: &str = "[[allow]]\nname = \"other\"\nproto = \"tcp\"\nports = [7]\n";
const OPEN: &str = "[[allow]]\nname = \"service\"\nproto = \"tcp\"\nports = [9100]\n";

fn reached(lab: &Lab) -> bool {
    lab.outside().tcp((HOST, 9100).into()).expect("a probe").reached()
}

fn logged(lab: &Lab, text: &str) {
    let found = || lab.fw_log().contains(text).then_some(());
    wait::until(text, Duration::from_secs(10), found)
        .unwrap_or_else(|error| panic!("{error:#}:\n{}", lab.fw_log()));
}

fn maps(lab: &Lab) -> String {
    let all = "for map in ports interfaces networks subnets settings names; do bpftool map dump pinned";
    lab.host().script(&format!("{all} {BPFFS}/$map; done")).expect("the maps")
}

/// The pinned hooks, and how many programs run on the uplink.
fn hooks(lab: &Lab) -> (String, u32) {
    let pins = lab.host().script(&format!("ls {BPFFS}/hooks")).expect("the pins");
    (pins, lab.host().tcx_programs("eth0", Direction::Ingress).expect("a count"))
}

#[test]
fn policies_change_by_sighup_and_bad_ones_change_nothing() {
    if !lab::available("policies_change_by_sighup_and_bad_ones_change_nothing") {
        return;
    }
    let lab = Lab::start(Options { dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    let _service = lab.host().serve_tcp("[::]:9100", "service").expect("a service");
    let policy = |text: &str| fs::write(lab.path(FILE), text).expect("a policy");

    // Observing: counted and let through.
    let daemon = lab.fw_run(&format!("mode = \"observe\"\n{CLOSED}")).expect("fw");
    assert!(reached(&lab), "observing drops nothing");
    let drops = lab.fw_drops().expect("drops");
    assert!(drops[&("uplink_ingress".to_owned(), "port-not-allowed".to_owned())] > 0, "{drops:?}");

    // Enforcing.
    policy(CLOSED);
    daemon.signal("HUP").expect("SIGHUP");
    wait::until("fw enforces", Duration::from_secs(10), || (!reached(&lab)).then_some(())).expect("closed");

    // A broken policy.
    let before = maps(&lab);
    policy("[[allow]]\nname = \"broken\"\n");
    daemon.signal("HUP").expect("SIGHUP");
    logged(&lab, "bad policy file");
    logged(&lab, "policy.toml:1:1: `proto` is missing");
    assert_eq!(maps(&lab), before, "a bad policy changed the maps");
    assert!(!reached(&lab));

    // One that names a device which does not exist would take fw off the real one.
    policy("[uplink]\ninterfaces = [\"eth9\"]\n");
    daemon.signal("HUP").expect("SIGHUP");
    logged(&lab, "the policy names uplinks that do not exist: eth9");
    // None at all.
    fs::remove_file(lab.path(FILE)).expect("no policy");
    daemon.signal("HUP").expect("SIGHUP");
    logged(&lab, "cannot read the policy file");
    assert_eq!(maps(&lab), before, "a bad policy changed the maps");
    assert!(!reached(&lab));

    // A network that Docker does not know yet is a warning.
    policy(&format!("{OPEN}[networks.later]\nspoofing = \"allow\"\n"));
    daemon.signal("HUP").expect("SIGHUP");
    wait::until("the port opens", Duration::from_secs(10), || reached(&lab).then_some(())).expect("open");
    logged(&lab, "later");
    lab.network("later", &["--subnet", "10.9.9.0/24"]).expect("a network");
    let spoofing = || lab.fw(&["table", "networks", "--json"]).ok()?.contains("allow").then_some(());
    wait::until("the rule finds its network", Duration::from_secs(12), spoofing).expect("allowed");
    daemon.terminate().expect("SIGTERM");
}

#[test]
fn a_policy_that_does_not_fit_changes_nothing_and_the_host_is_followed_as_before() {
    if !lab::available("a_policy_that_does_not_fit_changes_nothing_and_the_host_is_followed_as_before") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    // Forty zones in force and forty others are more than the 64 bits.
    let policy = |third: u8| -> String {
        let rule = |set| {
            format!(
                "[[allow]]\nname = \"r{set}\"\nproto = \"tcp\"\nports = [22]\nfrom = [\"10.0.{third}.{set}\"]\n"
            )
        };
        (0..40).map(rule).collect::<Vec<_>>().concat()
    };
    let daemon = lab.fw_run(&policy(1)).expect("fw");
    let before = maps(&lab);
    fs::write(lab.path(FILE), policy(2)).expect("a policy");
    daemon.signal("HUP").expect("SIGHUP");
    logged(&lab, "more than 64 together; change them in two steps");
    assert_eq!(maps(&lab), before);
    lab.network("late", &["--subnet", "10.9.9.0/24"]).expect("a network");
    let seen = || lab.fw(&["table", "networks", "--json"]).ok()?.contains("late").then_some(());
    wait::until("the new network is known", Duration::from_secs(12), seen).expect("the host is followed");
    assert!(!lab.fw_log().contains("pass failed"), "{}", lab.fw_log());
    daemon.terminate().expect("SIGTERM");

    // The same at a start is the policy's fault, too, and leaves the same in force.
    let before = maps(&lab);
    let (code, words) = ended(&lab, &["run", "--policy", FILE, "--docker", lab::SOCKET]);
    assert_eq!(code, Some(2), "{words}");
    assert!(words.contains("cannot put the policy into tables"), "{words}");
    assert_eq!(maps(&lab), before);
    in_force_without_daemon(&lab);
}

#[test]
fn docker_that_cannot_be_asked_is_named_and_changes_nothing() {
    if !lab::available("docker_that_cannot_be_asked_is_named_and_changes_nothing") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    fs::write(lab.path(FILE), CLOSED).expect("a policy");
    fs::write(lab.path("/run/file"), "").expect("a file");
    drop(UnixListener::bind(lab.path("/run/left.sock")).expect("a socket that a killed Docker left"));
    answering(&lab, "/run/web.sock", None);
    answering(&lab, "/run/hanging.sock", Some(r#"{"Version":"28.5.2","ApiVersion":"1.47"}"#));
    let refusals = [
        ("unix:///run/none.sock", "there is no docker socket at /run/none.sock: start docker"),
        ("/run/file", "/run/file is a file, not a socket"),
        ("unix:///run", "/run is a directory, not a socket"),
        ("unix:///run/left.sock", "nobody listens on the docker socket /run/left.sock: start docker"),
        ("unix:///run/web.sock", "what answers at unix:///run/web.sock is not docker"),
        ("docker", "expected unix:///PATH"),
        ("unix:///run/hanging.sock", "gave no answer about networks within 5s"),
    ];
    let refuse_all = || {
        let before = lab.footprint().expect("a footprint");
        for (socket, words) in refusals {
            let (code, said) = ended(&lab, &["run", "--policy", FILE, "--docker", socket]);
            assert_eq!(code, Some(1), "{socket}: {said}");
            assert!(said.contains(words), "{socket}: {said}");
            assert_eq!(lab.footprint().expect("a footprint"), before, "{socket}");
        }
    };
    refuse_all();

    lab.network("net", &["--subnet", "10.9.9.0/24"]).expect("a network");
    lab.fw_run(OPEN).expect("fw").terminate().expect("SIGTERM");
    let before = maps(&lab);
    fs::write(lab.path(FILE), CLOSED).expect("another policy");
    refuse_all();
    assert_eq!(maps(&lab), before, "what was in force stays in force");
    in_force_without_daemon(&lab);
}

#[test]
fn status_says_that_all_is_well_only_when_it_is() {
    if !lab::available("status_says_that_all_is_well_only_when_it_is") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    fs::write(lab.path(FILE), CLOSED).expect("a policy");
    answering(&lab, "/run/hanging.sock", Some(r#"{"Version":"28.5.2","ApiVersion":"1.47"}"#));
    assert_eq!(status(&lab)["in_force"], false);

    // A daemon that waits for Docker.
    let mut starting = lab
        .fw_command(&["run", "--policy", FILE, "--docker", "unix:///run/hanging.sock"])
        .expect("fw")
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("fw");
    let alive = || (status(&lab)["daemon"]["alive"] == true).then_some(());
    wait::until("fw is starting", Duration::from_secs(5), alive).expect("a daemon");
    let (code, words) = ended(&lab, &["status", "--docker", lab::SOCKET]);
    assert_eq!((code, words.lines().next()), (Some(1), Some("fw: starting (mode enforce)")));
    assert_eq!(starting.wait().expect("its end").code(), Some(1), "Docker did not answer");
    assert_eq!(status(&lab)["in_force"], false);

    // A daemon that does its work; whoever may not see all is told what, and not that the daemon is gone.
    let daemon = lab.fw_run(CLOSED).expect("fw");
    let (code, words) = ended(&lab, &["status", "--docker", lab::SOCKET]);
    assert_eq!((code, words.lines().next()), (Some(0), Some("fw: in force, daemon running (mode enforce)")));
    assert!(!words.contains("problem"), "{words}");
    let binary = lab::fw_binary().expect("fw").display().to_string();
    let unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", &binary, "status"];
    let words = lab.host().run(&[&unprivileged[..], &["--bpffs", BPFFS, "--docker", lab::SOCKET]].concat());
    let words = words.expect("status without privileges");
    assert!(
        words.contains("daemon running") && words.contains("run fw as root or with CAP_NET_ADMIN"),
        "{words}"
    );
    daemon.kill().expect("SIGKILL");
    in_force_without_daemon(&lab);
}

/// Runs `fw …` to its end: its exit code, and what it printed and said.
fn ended(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let output = lab.fw_command(arguments).expect("fw").output().expect("fw");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

/// `fw status --json`, whatever its exit code.
fn status(lab: &Lab) -> serde_json::Value {
    let output = lab.fw_command(&["status", "--json"]).expect("fw").output().expect("fw");
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn in_force_without_daemon(lab: &Lab) {
    let (code, words) = ended(lab, &["status", "--docker", lab::SOCKET]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.starts_with("fw: in force, but no daemon keeps it in step"), "{words}");
    assert!(words.contains("start `fw run`"), "{words}");
}

/// A socket that speaks HTTP: it tells this version, if any, and has no answer to anything else. Ends with the test.
fn answering(lab: &Lab, socket: &str, version: Option<&'static str>) {
    let listener = UnixListener::bind(lab.path(socket)).expect("a socket");
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = String::new();
            BufReader::new(&stream).read_line(&mut request).ok();
            match version {
                Some(body) if request.contains("/version") => {
                    let good = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
                    write!(stream, "{good}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).ok();
                }
                Some(_) => held.push(stream),
                None => {
                    stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok();
                }
            }
        }
    });
}

#[test]
fn a_start_that_fails_leaves_what_was_there() {
    if !lab::available("a_start_that_fails_leaves_what_was_there") {
        return;
    }
    let lab = Lab::start(Options { dockerd: Town::dockerd(), ..Options::default() }).expect("a lab");
    let _service = lab.host().serve_tcp("[::]:9100", "service").expect("a service");
    let run = ["run", "--policy", FILE, "--docker", lab::SOCKET];
    fs::write(lab.path(FILE), CLOSED).expect("a policy");

    // Nothing was there: Docker does not answer, and nothing is there afterwards.
    let before = lab.footprint().expect("a footprint");
    let refused =
        lab.fw(&["run", "--policy", FILE, "--docker", "unix:///run/none.sock"]).expect_err("no Docker");
    assert!(format!("{refused:#}").contains("no docker socket at /run/none.sock"), "{refused:#}");
    assert_eq!(lab.footprint().expect("a footprint"), before);

    // A first start that fails when a hook cannot be attached: a qdisc of another kind stands in clsact's place.
    lab.host().script(&format!("tc qdisc add dev eth0 ingress; mkdir {BPFFS}")).expect("an ingress qdisc");
    let before = lab.footprint().expect("a footprint");
    let clsact = [&run[..], &["--attach", "clsact"]].concat();
    let refused = lab.fw(&clsact).expect_err("clsact cannot be had");
    assert!(format!("{refused:#}").contains("cannot attach"), "{refused:#}");
    assert_eq!(lab.footprint().expect("a footprint"), before, "nothing is left of a first start");
    lab.host().script(&format!("tc qdisc del dev eth0 ingress; rmdir {BPFFS}")).expect("no qdisc");

    // An fw was there, and a second uplink cannot be hooked: the first one's hooks and the closed port are as before.
    // (Maps of another layout: xtask/tests/upgrade.)
    lab.fw_run(CLOSED).expect("fw").terminate().expect("SIGTERM");
    let before = (maps(&lab), hooks(&lab));
    lab.host()
        .script("ip link add eth8 type veth peer name far8; tc qdisc add dev eth8 ingress")
        .expect("another device");
    fs::write(lab.path(FILE), format!("{OPEN}[uplink]\ninterfaces = [\"eth0\", \"eth8\"]\n"))
        .expect("a policy");
    let refused = lab.fw(&clsact).expect_err("eth8 cannot be hooked");
    let words = format!("{refused:#}");
    assert!(
        words.contains("cannot attach uplink_ingress on eth8") && words.contains("`tc qdisc show dev eth8`"),
        "{words}"
    );
    assert_eq!(lab.host().run(&["tc", "filter", "show", "dev", "eth8", "ingress"]).expect("tc"), "");
    assert_eq!((maps(&lab), hooks(&lab)), before);
    assert!(!reached(&lab), "what was in force stays in force");
    in_force_without_daemon(&lab);
    assert!(lab.fw(&["status"]).is_err(), "no daemon: status does not say that all is well");
    lab.fw_down().expect("fw down");
    assert!(reached(&lab));
}

/// Sets of more than ten thousand prefixes are not read from the kernel again by each full pass.
#[test]
fn a_large_set_changes_like_any_other() {
    if !lab::available("a_large_set_changes_like_any_other") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let _service = lab.host().serve_tcp("[::]:9100", "service").expect("a service");
    let set = |with_us: bool| {
        let others = (0..20_000).map(|number| format!("11.{}.{}.0/25\n", number >> 8, number & 255));
        let us = with_us.then(|| "198.18.0.0/24\n".to_owned());
        fs::write(lab.path("/run/lab/large.txt"), others.chain(us).collect::<String>()).expect("a set file");
    };
    let policy = "[sets]\nlarge = { file = \"large.txt\" }\n".to_owned() + OPEN + "from = [\"large\"]\n";
    set(true);
    let daemon = lab.fw_run(&policy).expect("fw");
    assert!(reached(&lab));
    let passes = || status(&lab)["daemon"]["passes"].as_u64();
    let first = passes();
    wait::until("a full pass", Duration::from_secs(15), || (passes() > first).then_some(())).expect("a pass");
    assert!(reached(&lab));
    for with_us in [false, true, false] {
        set(with_us);
        daemon.signal("HUP").expect("SIGHUP");
        let follows = || (reached(&lab) == with_us).then_some(());
        wait::until("the set is followed", Duration::from_secs(15), follows).expect("followed");
    }
    daemon.kill().expect("SIGKILL");
    // The next daemon reads them, and finds what is in force.
    let daemon = lab.fw_run(&policy).expect("fw again");
    assert!(!reached(&lab));
    assert!(!lab.fw_log().contains("pass failed"), "{}", lab.fw_log());
    daemon.terminate().expect("SIGTERM");
}
