//! Bad input to the binary: one clear error that says what to do, the documented exit code, and nothing changed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// What the binary said, and how it ended.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn fw(directory: &Path, arguments: &[&str]) -> Said {
    said(Command::new(env!("CARGO_BIN_EXE_fw")).current_dir(directory).args(arguments))
}

fn said(command: &mut Command) -> Said {
    let Output { status, stdout, stderr } = command.output().expect("fw starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said { code: status.code(), out: text(stdout), err: text(stderr) }
}

#[track_caller]
fn refused(said: &Said, code: i32, parts: &[&str]) {
    assert_eq!(said.code, Some(code), "{}", said.err);
    assert_eq!(said.out, "", "data of a command that failed");
    for part in parts {
        assert!(said.err.contains(part), "{part:?} is not in: {}", said.err);
    }
}

fn with(text: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("policy.toml"), text).expect("a file");
    directory
}

const GOOD: &str = "[[allow]]\nname = \"ping\"\nproto = \"icmp\"\n";

#[test]
fn wrong_usage_exits_2() {
    let directory = with(GOOD);
    refused(&fw(directory.path(), &["nosuch"]), 2, &["unrecognized subcommand 'nosuch'"]);
    refused(&fw(directory.path(), &["check"]), 2, &["<FILE>"]);
    refused(&fw(directory.path(), &["run", "--nosuch"]), 2, &["unexpected argument '--nosuch'"]);
    let metrics = |address| fw(directory.path(), &["run", "--metrics", address]);
    refused(
        &metrics("0.0.0.0:9768"),
        2,
        &["0.0.0.0:9768 is not a loopback address", "use 127.0.0.1 or [::1]"],
    );
    refused(&metrics("localhost"), 2, &["expected ADDRESS:PORT", "unix:/PATH"]);
    refused(&metrics("unix:metrics.sock"), 2, &["begins with /"]);
    refused(&fw(directory.path(), &["run", "--log", "xml"]), 2, &["possible values: text, json, journald"]);
    refused(&fw(directory.path(), &["suggest", "--policy", "none.toml"]), 2, &["none.toml", "--policy"]);
    refused(&fw(directory.path(), &["table", "nosuch"]), 2, &["possible values: settings, interfaces"]);
    let explain = |words: &[&str]| fw(directory.path(), &[&["explain"], words].concat());
    let asked = ["tcp", "192.0.2.7", "192.0.2.1:22"];
    refused(&explain(&asked[..2]), 2, &["DST[:PORT]"]);
    refused(
        &explain(&["tcp", "192.0.2.7", "192.0.2.256:22"]),
        2,
        &["\"192.0.2.256:22\"", "expected one like"],
    );
    refused(&explain(&["udp", "192.0.2.7", "192.0.2.1:22", "--flags", "syn"]), 2, &["for tcp alone"]);
    refused(
        &explain(&["--packet", "45zz", "--in", "lo"]),
        2,
        &["'z' is no digit", "expected an even number"],
    );
    refused(&explain(&["--packet", "policy.toml", "--in", "lo"]), 2, &["expected pcap or pcapng"]);
    refused(&explain(&[&asked[..], &["--policy", "nosuch.toml"]].concat()), 2, &["nosuch.toml"]);
}

#[test]
fn a_bad_policy_exits_2_with_every_place() {
    let text = "mod = \"enforce\"\n[[allow]]\nname = \"web\"\nproto = \"tcp\"\nports = [\"90-80\"]\nfrom = [\"nobody\"]\n";
    let directory = with(text);
    let parts = [
        "policy.toml:1:1: unknown key `mod` at the top level; did you mean `mode`?",
        "policy.toml:5:10: port range \"90-80\" is inverted; expected \"80-90\"",
        "policy.toml:6:9: \"nobody\" is neither a set nor a prefix",
    ];
    refused(&fw(directory.path(), &["check", "policy.toml"]), 2, &parts);
    refused(&fw(directory.path(), &["run", "--policy", "policy.toml"]), 2, &parts);
    let said = fw(directory.path(), &["check", "policy.toml"]);
    let places = said.err.lines().skip(1).filter(|line| line.starts_with("policy.toml:")).count();
    assert_eq!(places, 3, "an editor finds each by the begin of its line: {}", said.err);
    refused(&fw(directory.path(), &["run", "--policy", "none.toml"]), 2, &["none.toml", "--policy"]);
}

#[test]
fn check_says_what_a_policy_means_in_words_and_as_json() {
    let directory = with(GOOD);
    let words = fw(directory.path(), &["check", "policy.toml"]);
    assert_eq!((words.code, words.err.as_str()), (Some(0), ""));
    assert!(words.out.contains("allow  ping  icmp echo (IPv4 and IPv6)  from any"), "{}", words.out);
    let json = fw(directory.path(), &["check", "--json", "policy.toml"]);
    let json: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(json["mode"], "enforce");
    assert_eq!(json["allow"][0]["name"], "ping");
}

#[test]
fn a_directory_that_is_no_bpffs_is_refused() {
    if !is_root() {
        println!("SKIPPED: needs root: without it, `fw run` ends before it looks at the directory");
        return;
    }
    let directory = with(GOOD);
    let said = fw(directory.path(), &["run", "--policy", "policy.toml", "--bpffs", "pins"]);
    refused(&said, 1, &["pins does not lie on a bpffs", "mount -t bpf"]);
    let said = fw(directory.path(), &["run", "--policy", "policy.toml", "--bpffs", "none/pins"]);
    refused(&said, 1, &["none/pins", "--bpffs"]);
    assert!(!directory.path().join("pins").exists());
}

#[test]
fn where_nothing_is_in_force_commands_say_so() {
    let directory = with(GOOD);
    for arguments in [&["status"][..], &["table", "ports"], &["monitor"]] {
        let said = fw(directory.path(), &[arguments, &["--bpffs", "pins"]].concat());
        refused(&said, 1, &["nothing of fw is in force in pins", "fw run"]);
    }
    let said = fw(directory.path(), &["status", "--json", "--bpffs", "pins"]);
    assert_eq!(said.code, Some(1));
    let json: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(json["in_force"], false);
    if is_root() {
        assert_eq!(
            fw(directory.path(), &["down", "--bpffs", "pins"]).code,
            Some(0),
            "nothing left is what was asked"
        );
    }
}

#[test]
fn the_version_is_that_of_fw() {
    let said = fw(Path::new("/"), &["--version"]);
    assert_eq!((said.code, said.out.trim()), (Some(0), concat!("fw ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn without_privileges_all_that_is_missing_is_named() {
    let directory = with(GOOD);
    for arguments in [&["run", "--policy", "policy.toml"][..], &["down"]] {
        let said = said(nobody(directory.path()).args(arguments));
        refused(&said, 1, &["CAP_NET_ADMIN", "CAP_BPF", "sudo"]);
    }
}

#[test]
fn one_missing_capability_is_named_alone() {
    let found = Command::new("setpriv").arg("--version").output();
    if !is_root() || found.is_err() {
        println!("SKIPPED: needs root and setpriv (package util-linux) to give capabilities up");
        return;
    }
    let directory = with(GOOD);
    for missing in ["net_admin", "net_raw", "sys_ptrace", "sys_admin", "bpf"] {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--bounding-set=-{missing}"))
            .arg(format!("--inh-caps=-{missing}"))
            .arg(env!("CARGO_BIN_EXE_fw"))
            .args(["run", "--policy", "policy.toml", "--bpffs", "pins"]);
        let said = said(command.current_dir(directory.path()));
        refused(&said, 1, &[&format!("CAP_{}", missing.to_uppercase()), "sudo", "AmbientCapabilities="]);
        assert_eq!(said.err.matches("CAP_").count(), 1, "{}", said.err);
    }
}

#[test]
fn who_may_not_look_into_the_directory_is_not_told_that_it_is_empty() {
    if !is_root() {
        println!("SKIPPED: needs root to make a directory that others may not look into");
        return;
    }
    let directory = with(GOOD);
    let pins = directory.path().join("pins");
    fs::create_dir(&pins)
        .and_then(|()| fs::set_permissions(&pins, fs::Permissions::from_mode(0o700)))
        .expect("pins");
    for arguments in [&["status"][..], &["table", "ports"], &["monitor"]] {
        let said = said(nobody(directory.path()).args(arguments).args(["--bpffs", "pins"]));
        refused(&said, 1, &["no permission to look into pins", "sudo"]);
    }
    // What it cannot see it does not judge.
    let doctor = said(nobody(directory.path()).args(["doctor", "--json", "--bpffs", "pins"]));
    assert_eq!(doctor.code, Some(1), "{}", doctor.err);
    let report: serde_json::Value = serde_json::from_str(&doctor.out).expect("JSON");
    assert_eq!(report["clean"], false, "{report:#}");
    for part in ["without root", "no permission to look into pins"] {
        assert!(report["not_seen"].to_string().contains(part), "{part:?}: {report:#}");
    }
    assert!(!report["findings"].to_string().contains("not-in-force"), "{report:#}");
}

/// The binary, run by a user without capabilities.
fn nobody(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fw"));
    if is_root() {
        // The binary and the policy must be readable for it; the target folder is perhaps not.
        let copy = directory.join("fw");
        // By another process: a test beside this one that starts a program would inherit our end of the copy for a
        // moment, and the kernel runs nothing that somebody writes ("text file busy").
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_fw")).arg(&copy).status().expect("cp");
        assert!(copied.success(), "a copy of the binary");
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("others may look");
        command = Command::new(copy);
        command.uid(65534).gid(65534);
    }
    command.current_dir(directory);
    command
}

#[test]
fn an_uplink_that_does_not_exist_is_refused_with_those_that_do() {
    if !is_root() {
        println!("SKIPPED: needs root: without it, `fw run` ends before it looks for uplinks");
        return;
    }
    let directory = with("[uplink]\ninterfaces = [\"nosuch0\"]\n");
    let said = fw(directory.path(), &["run", "--policy", "policy.toml", "--bpffs", "pins"]);
    refused(&said, 1, &["nosuch0", "uplink.interfaces"]);
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
