//! The hand-over rules in real tables of both flavours and families, in network namespaces of their own.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fw_user::docker::Transport;
use fw_user::handover::{
    Desired, Family, Flavour, HandoverError, How, Iptables, Marks, Nat, Network, Place, Port, doctor_marks,
};
use fw_user::policy::Policy;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;

const FLAVOURS: [(Flavour, &str); 2] = [(Flavour::Nft, "nft"), (Flavour::Legacy, "legacy")];

/// Docker 20.10's shape, IPv4.
const DOCKER_20: &str = "\
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -j DOCKER
-A DOCKER-USER -s 192.0.2.66/32 -m comment --comment \"fail2ban \\\"sshd\\\" it's\" -j DROP
-A DOCKER-USER -m comment --comment fw -m mark --mark 0x1000000/0x3000000 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
";

/// Docker 28.5's shape, one family; `{address}` is the container's.
const DOCKER_28: &str = "\
*raw
-A PREROUTING -d {address} ! -i docker0 -j DROP
COMMIT
*nat
:DOCKER - [0:0]
-A POSTROUTING -o docker0 -m addrtype --src-type LOCAL -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
COMMIT
";

fn marks() -> Marks {
    Marks::new(24).expect("bit 24 is allowed")
}

fn desired(uplinks: &[&str], reach: bool) -> Desired {
    Desired::new(marks(), uplinks.iter().copied(), reach).expect("the names are plain")
}

/// Runs a test in a thread with a network of its own, and a `/run` of its own for the lock of the legacy flavour.
/// Programs that it starts inherit both; the kernel takes them away with the thread.
fn in_own_host(test: impl FnOnce() + Send + 'static) {
    if !Uid::effective().is_root() {
        skip("needs root to make a network namespace");
        return;
    }
    for program in ["iptables-nft-save", "iptables-legacy-save"] {
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            skip(&format!("needs {program}: install the package `iptables`"));
            return;
        }
    }
    let host = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may make namespaces");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("mounts can be made private");
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("a tmpfs can be mounted");
        test();
    });
    if let Err(panic) = host.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Says that a test was not run; written past the harness, which hides what a passing test prints.
fn skip(reason: &str) {
    writeln!(io::stderr(), "SKIPPED: {reason}").expect("stderr is open");
}

fn output(program: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    child.stdin.take().expect("stdin was asked for").write_all(input.as_bytes()).expect("the program reads");
    let output = child.wait_with_output().expect("the program ends");
    assert!(output.status.success(), "{program} {arguments:?} failed with the input\n{input}");
    String::from_utf8(output.stdout).expect("the text is UTF-8")
}

fn load(tool: &str, flavour: &str, rules: &str) {
    output(&format!("{tool}-{flavour}-restore"), &["--noflush"], rules);
}

/// All that any of the four programs and `nft` print, without dates and counters.
fn snapshot() -> String {
    let mut text = String::new();
    for tool in ["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"] {
        text.extend(["== ", tool, "\n"]);
        text += &output(&format!("{tool}-save"), &[], "");
    }
    if Command::new("nft").arg("--version").stdout(Stdio::null()).status().is_ok() {
        text += &output("nft", &["--stateless", "list", "ruleset"], "");
    }
    let lines =
        text.lines().filter(|line| !line.starts_with("# Generated") && !line.starts_with("# Completed"));
    let lines = lines.map(|line| {
        line.rsplit_once(" [").filter(|_| line.starts_with(':')).map_or(line, |(chain, _)| chain)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn user_chain(tool: &str) -> Vec<String> {
    let text = output(&format!("{tool}-save"), &["-t", "filter"], "");
    text.lines().filter_map(|line| line.strip_prefix("-A DOCKER-USER ")).map(str::to_owned).collect()
}

fn places(outcome: &fw_user::handover::Outcome) -> Vec<Place> {
    outcome.places.iter().map(|change| change.place).collect()
}

#[test]
fn a_host_without_docker_is_left_untouched() {
    in_own_host(|| {
        let before = snapshot();
        let iptables = Iptables::find().expect("iptables is installed");
        let outcome = iptables.apply(&desired(&["eth0"], true), None).expect("nothing to do");
        assert!(!outcome.changed && outcome.places.is_empty());
        let status = iptables.status(&desired(&["eth0"], true)).expect("tables can be read");
        assert!(status.places.is_empty() && status.unreadable.is_empty(), "{status:?}");
        assert!(!iptables.remove().expect("nothing to do").changed);
        assert_eq!(snapshot(), before, "reading has made tables or chains");
    });
}

#[test]
fn docker_20_in_either_flavour_there_and_back() {
    for (flavour, name) in FLAVOURS {
        in_own_host(move || {
            load("iptables", name, DOCKER_20);
            let before = snapshot();
            let iptables = Iptables::find().expect("iptables is installed");
            let outcome =
                iptables.apply(&desired(&["wg0", "eth0"], false), None).expect("the rules are taken");
            assert!(outcome.changed);
            assert_eq!(places(&outcome), [Place { family: Family::V4, flavour }]);
            let rules = user_chain(&format!("iptables-{name}"));
            assert!(rules[0].starts_with("-s 192.0.2.66/32") && rules[1].ends_with("-j DROP"), "{rules:#?}");
            assert_eq!(
                rules[2..],
                [
                    "-m mark --mark 0x1000000/0x3000000 -m comment --comment fw -j ACCEPT",
                    "-m mark --mark 0x3000000/0x3000000 -m comment --comment fw -j ACCEPT",
                    "-o eth0 -m mark --mark 0x2000000/0x3000000 -m comment --comment fw -j ACCEPT",
                    "-o wg0 -m mark --mark 0x2000000/0x3000000 -m comment --comment fw -j ACCEPT",
                    "-j RETURN",
                ]
            );
            let again = iptables.apply(&desired(&["wg0", "eth0"], false), None).expect("nothing to do");
            assert!(!again.changed && again.places.len() == 1 && again.places[0].edits.is_empty());
            assert!(iptables.remove().expect("the rules can be removed").changed);
            assert_eq!(snapshot(), before);
        });
    }
}

#[test]
fn docker_28_in_both_families_there_and_back() {
    for (flavour, name) in FLAVOURS {
        in_own_host(move || {
            load("iptables", name, &DOCKER_28.replace("{address}", "172.17.0.2/32"));
            load("ip6tables", name, &DOCKER_28.replace("{address}", "2001:db8::2/128"));
            let before = snapshot();
            let iptables = Iptables::find().expect("iptables is installed");
            let outcome = iptables.apply(&desired(&["eth0"], true), None).expect("the rules are taken");
            assert_eq!(places(&outcome), [Family::V4, Family::V6].map(|family| Place { family, flavour }));
            for status in iptables.status(&desired(&["eth0"], true)).expect("tables can be read").places {
                assert!(status.report.reached && status.report.missing.is_empty(), "{status:#?}");
                let tables: Vec<_> = status.report.in_place.iter().map(|placed| placed.table).collect();
                // One rule in raw, for whichever mark.
                assert_eq!(tables, ["filter", "filter", "filter", "raw", "nat"]);
            }
            assert!(iptables.apply(&desired(&["eth0"], false), None).expect("the rules are taken").changed);
            assert!(iptables.remove().expect("the rules can be removed").changed);
            assert_eq!(snapshot(), before);
        });
    }
}

#[test]
fn both_flavours_at_once_get_the_rules_in_both() {
    in_own_host(|| {
        load("iptables", "nft", DOCKER_20);
        load("iptables", "legacy", DOCKER_20);
        let before = snapshot();
        let iptables = Iptables::find().expect("iptables is installed");
        let outcome = iptables.apply(&desired(&[], false), None).expect("the rules are taken");
        assert_eq!(outcome.places.len(), 2, "packets pass through both");
        assert!(iptables.remove().expect("the rules can be removed").changed);
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn later_foreign_rules_move_in_front_and_ours_keep_their_counters() {
    for (_, name) in FLAVOURS {
        in_own_host(move || {
            load("iptables", name, DOCKER_20);
            let iptables = Iptables::find().expect("iptables is installed");
            let _ = iptables.apply(&desired(&["eth0"], false), None).expect("the rules are taken");
            let tool = format!("iptables-{name}");
            let accepted = "*filter\n-D DOCKER-USER 3\n[7:420] -I DOCKER-USER 3 -m comment --comment fw \
                -m mark --mark 0x1000000/0x3000000 -j ACCEPT\nCOMMIT\n";
            output(&format!("{tool}-restore"), &["--noflush", "--counters"], accepted);
            let outcome =
                iptables.apply(&desired(&["eth0", "wg0"], false), None).expect("the rules are taken");
            assert_eq!(outcome.places[0].edits.len(), 1);
            assert!(matches!(outcome.places[0].edits[0].how, How::Insert(6)), "{outcome:?}");
            let status = iptables.status(&desired(&["eth0", "wg0"], false)).expect("tables can be read");
            let first = &status.places[0].report.in_place[0];
            assert_eq!((first.packets, first.bytes), (7, 420));
            assert_eq!(status.places[0].report.foreign.len(), 2);
            output(&tool, &["-w", "-I", "DOCKER-USER", "5", "-s", "192.0.2.67", "-j", "DROP"], "");
            assert!(
                iptables.apply(&desired(&["eth0", "wg0"], false), None).expect("the rules are taken").changed
            );
            let rules = user_chain(&tool);
            assert_eq!(rules[2], "-s 192.0.2.67/32 -j DROP", "{rules:#?}");
            assert!(rules[3..7].iter().all(|rule| rule.contains("--comment fw")), "{rules:#?}");
            assert_eq!(rules[7], "-j RETURN");
        });
    }
}

#[test]
fn a_held_lock_is_a_clear_error() {
    in_own_host(|| {
        load("iptables", "legacy", DOCKER_20);
        let before = snapshot();
        let file = File::create("/run/xtables.lock").expect("the lock is a file in /run");
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error);
        let lock = lock.expect("nobody else uses this /run");
        let iptables =
            Iptables::find().expect("iptables is installed").with_lock_wait(Duration::from_secs(1));
        let error = iptables.apply(&desired(&[], false), None).expect_err("the lock is held");
        assert!(matches!(error, HandoverError::Locked { seconds: 1, .. }), "{error}");
        drop(lock);
        assert_eq!(snapshot(), before);
        assert!(iptables.apply(&desired(&[], false), None).expect("the lock is free").changed);
    });
}

#[test]
fn a_table_that_only_nft_can_show_is_named() {
    in_own_host(|| {
        if Command::new("nft").arg("--version").stdout(Stdio::null()).status().is_err() {
            skip("needs nft: install the package `nftables`");
            return;
        }
        load("iptables", "nft", DOCKER_20);
        output("nft", &["-f", "-"], "add rule ip filter FORWARD ct state vmap { established : accept }\n");
        let iptables = Iptables::find().expect("iptables is installed");
        let outcome = iptables.apply(&desired(&[], false), None).expect("what cannot be seen is no failure");
        assert!(!outcome.changed && outcome.unreadable.len() == 1, "{outcome:?}");
        let warning = outcome.unreadable[0].to_string();
        assert!(warning.starts_with("cannot read table filter of iptables-nft"), "{warning}");
        // With Docker's rules found in the other flavour that table is somebody else's affair.
        load("iptables", "legacy", DOCKER_20);
        let outcome = iptables.apply(&desired(&[], false), None).expect("the rules are taken");
        assert!(outcome.changed && outcome.unreadable.is_empty(), "{outcome:?}");
    });
}

#[test]
fn connmark_rules_of_others_are_named() {
    in_own_host(|| {
        let rules = "*mangle\n-A PREROUTING -j CONNMARK --restore-mark\n\
            -A POSTROUTING -j CONNMARK --save-mark --mask 0xffff\nCOMMIT\n";
        load("iptables", "nft", rules);
        load("ip6tables", "legacy", rules);
        let iptables = Iptables::find().expect("iptables is installed");
        let mut found = Vec::new();
        for (place, text) in iptables.read_all() {
            let text = text.expect("tables can be read");
            found
                .extend(doctor_marks(&text, marks()).into_iter().map(|finding| (place.to_string(), finding)));
        }
        assert_eq!(found.len(), 2, "{found:#?}");
        let [(first, what), (second, other)] = &found[..] else { return };
        assert_eq!((first.as_str(), second.as_str()), ("iptables-nft", "ip6tables-legacy"), "{found:#?}");
        assert!(what.starts_with("mangle PREROUTING:") && other.starts_with("mangle PREROUTING:"));
        assert!(what.contains("0xfcffffff"), "{found:#?}");
    });
}

/// Programs that pretend to be iptables-nft: `save` and `restore` are shell scripts, run in their directory.
fn pretend(dir: &Path, tool: &str, save: &str, restore: &str) {
    for (verb, script) in [("save", save), ("restore", restore)] {
        let path = dir.join(format!("{tool}-nft-{verb}"));
        let script = format!("#!/bin/sh\ncd {}\n{script}\n", dir.display());
        // Written by a child: a descriptor open for writing here could be inherited elsewhere and make it "text busy".
        let path = path.to_str().expect("the path is UTF-8");
        output("sh", &["-c", "cat > \"$0\" && chmod +x \"$0\"", path], &script);
    }
}

#[test]
fn rules_that_do_not_stay_are_taken_back_and_reported() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    fs::write(dir.path().join("state"), DOCKER_20).expect("a file can be written");
    pretend(dir.path(), "iptables", "cat state", "cat >> input");
    let iptables = Iptables::find_in(&[dir.path().to_owned()]).expect("there is one flavour");
    let error = iptables.apply(&desired(&[], false), None).expect_err("the rules do not stay");
    assert!(matches!(error, HandoverError::Restless { attempts: 3, .. }), "{error}");
    let input = fs::read_to_string(dir.path().join("input")).expect("something was written");
    assert_eq!(input.matches("-I DOCKER-USER").count(), input.matches("-D DOCKER-USER").count(), "{input}");
}

#[test]
fn a_failure_in_one_family_does_not_stop_the_other() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    fs::write(dir.path().join("state"), DOCKER_20).expect("a file can be written");
    pretend(dir.path(), "iptables", "cat state", "echo 'boom: no memory' >&2; exit 1");
    pretend(dir.path(), "ip6tables", "cat state6 2> /dev/null || cat state", "cat > input6; echo > state6");
    let iptables = Iptables::find_in(&[dir.path().to_owned()]).expect("there is one flavour");
    let error = iptables.apply(&desired(&[], false), None).expect_err("IPv4 fails");
    assert!(error.to_string().ends_with("iptables-nft-restore failed: boom: no memory"), "{error}");
    assert!(dir.path().join("input6").exists(), "IPv6 was not done");
}

#[test]
fn plain_programs_are_asked_for_their_flavour() {
    in_own_host(|| {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let empty = Iptables::find_in(&[dir.path().to_owned()]).expect_err("there is nothing yet");
        assert!(empty.to_string().contains("package `iptables`"), "{empty}");
        let multi = ["/usr/sbin", "/sbin"].map(|sbin| Path::new(sbin).join("xtables-legacy-multi"));
        let Some(multi) = multi.into_iter().find(|path| path.exists()) else {
            skip("needs xtables-legacy-multi");
            return;
        };
        for name in ["iptables", "iptables-save", "iptables-restore"] {
            symlink(&multi, dir.path().join(name)).expect("a link can be made");
        }
        load("iptables", "legacy", DOCKER_20);
        let iptables = Iptables::find_in(&[dir.path().to_owned()]).expect("plain iptables is there");
        let outcome = iptables.apply(&desired(&[], false), None).expect("the rules are taken");
        assert_eq!(places(&outcome), [Place { family: Family::V4, flavour: Flavour::Legacy }]);
    });
}

/// A real Docker daemon, started in this namespace with all its state in a directory of its own.
struct Dockerd {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Dockerd {
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let socket = format!("unix://{}", at("docker.sock"));
        let mut child = Command::new("dockerd")
            .args(["-H", &socket, "--data-root", &at("root"), "--exec-root", &at("exec"), "-p", &at("pid")])
            .args(["--storage-driver", "vfs"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .ok()?;
        let log = BufReader::new(child.stderr.take().expect("stderr was asked for"));
        let docker = Self { child, _dir: dir };
        let (sender, lines) = mpsc::channel();
        // Reads to the end, so that the daemon never waits for room in the pipe.
        thread::spawn(move || log.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let deadline = Instant::now() + Duration::from_mins(1);
        let mut seen = Vec::new();
        while !seen.last().is_some_and(|line: &String| line.contains("API listen on")) {
            let line = lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            seen.push(line.unwrap_or_else(|_| panic!("dockerd did not start:\n{}", seen.join("\n"))));
        }
        Some(docker)
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        // It stops its containerd on SIGTERM; there is nothing to do about an error here.
        let _gone = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ended = self.child.wait();
    }
}

#[test]
fn a_real_docker_gets_its_tables_back() {
    in_own_host(|| {
        let Some(_docker) = Dockerd::start() else {
            skip("needs dockerd: install the package `docker.io`");
            return;
        };
        let before = snapshot();
        assert!(before.contains("-A FORWARD -j DOCKER-USER"), "{before}");
        let iptables = Iptables::find().expect("iptables is installed");
        assert!(iptables.apply(&desired(&["eth0"], true), None).expect("the rules are taken").changed);
        assert!(!iptables.apply(&desired(&["eth0"], true), None).expect("nothing to do").changed);
        assert!(iptables.remove().expect("the rules can be removed").changed);
        assert_eq!(snapshot(), before);
    });
}

/// Chains of every kind: SCTP, IPv6, ranges, a loopback address, a FORWARD that drops.
fn own_nat() -> Nat {
    let text = "[[nat.redirect]]\nname = \"a\"\nproto = \"udp\"\nports = [53, \"60-61\"]\nto = 5300\n\
                [[nat.dnat]]\nname = \"b\"\nproto = \"tcp\"\nports = [1]\naddress = \"192.0.2.1\"\nto = \"192.0.2.2\"\n\
                [[nat.dnat]]\nname = \"c\"\nproto = \"tcp\"\nports = [1]\naddress = \"2001:db8::1\"\nto = \"[2001:db8::2]:3\"\n";
    let policy = Policy::parse(text, Path::new("policy.toml"), Path::new("/nonexistent")).expect("a policy");
    let port = |host: &str, protocol, target: &str| Port {
        host: host.parse().expect("an address"),
        protocol,
        host_port: 8080,
        bridge: "br-a".into(),
        target: target.parse().expect("an address"),
        target_port: 80,
    };
    let network = |bridge: &str, internal, subnets: &[&str]| Network {
        bridge: bridge.into(),
        docker: true,
        subnets: subnets.iter().map(|subnet| subnet.parse().expect("a prefix")).collect(),
        internal,
        masquerade_v4: !internal,
        masquerade_v6: !internal,
    };
    Nat {
        owns: true,
        observe: true,
        marks: marks(),
        reach: true,
        networks: vec![
            network("br-a", false, &["10.1.0.0/24", "fd00:a::/64"]),
            network("br-i", true, &["10.3.0.0/24", "fd00:1::/64"]),
        ],
        ports: vec![
            port("127.0.0.1", Transport::Tcp, "10.1.0.2"),
            port("198.18.0.1", Transport::Udp, "10.1.0.2"),
            port("0.0.0.0", Transport::Sctp, "10.1.0.2"),
            port("::", Transport::Sctp, "fd00:a::2"),
        ],
        uplinks: ["eth0".to_owned()].into(),
        redirects: policy.nat.redirects,
        dnats: policy.nat.dnats,
        localnet: ["br-a".to_owned()].into(),
    }
}

#[test]
fn own_chains_read_back_as_written_in_both_flavours() {
    for (flavour, name) in FLAVOURS {
        in_own_host(move || {
            // A host with rules in one flavour alone, and a FORWARD that drops in it.
            for tool in ["iptables", "ip6tables"] {
                load(tool, name, "*filter\n:FORWARD DROP [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n");
            }
            let before = chains_and_rules();
            let iptables = Iptables::find().expect("iptables is installed");
            let (desired, nat) = (desired(&["eth0"], true), own_nat());
            let first = iptables.apply(&desired, Some(&nat)).expect("written and read back");
            assert!(first.changed && first.refused.is_empty(), "{first:?}");
            assert!(first.places.iter().all(|change| change.place.flavour == flavour), "{first:?}");
            let own = iptables.status(&desired).expect("tables can be read").own;
            assert_eq!(own.len(), 2, "both families, one flavour: {own:?}");
            let again = iptables.apply(&desired, Some(&nat)).expect("nothing to do");
            assert!(!again.changed, "{again:#?}");
            // A rule of somebody else in the other flavour moves nothing.
            let other = FLAVOURS.iter().find(|(other, _)| *other != flavour).expect("there are two").1;
            load("iptables", other, "*filter\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n");
            let again = iptables.apply(&desired, Some(&nat)).expect("nothing to do");
            assert!(!again.changed, "{again:#?}");
            load("iptables", other, "*filter\n-D INPUT -i lo -j ACCEPT\nCOMMIT\n");
            // The owner changes: only translations are left.
            let less = iptables.apply(&desired, Some(&Nat { owns: false, ..nat })).expect("rewritten");
            assert!(less.changed && !chains_and_rules().contains("FW-FORWARD"), "{}", chains_and_rules());
            assert!(iptables.remove().expect("all can be removed").changed);
            assert_eq!(chains_and_rules(), before);
        });
    }
}

/// As [`snapshot`], without the tables that iptables-nft leaves behind empty.
fn chains_and_rules() -> String {
    let all = snapshot();
    let lines = all.lines().filter(|line| line.starts_with("-A") || line.starts_with(":FW-"));
    lines.collect::<Vec<_>>().join("\n")
}
