//! What the daemon tells: lines of JSON that parse and carry fields, and entries of the real journal.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use xtask::lab::{self, BPFFS, Lab, Options, SOCKET, fw_binary, wait};

#[test]
fn lines_of_json_and_entries_of_the_journal() {
    if !lab::available("lines_of_json_and_entries_of_the_journal") {
        return;
    }
    let lab = Lab::start(Options { fw_log: Some("info"), ..Options::default() }).expect("a lab");
    lab.network("a", &[]).expect("a network");

    let daemon = lab.fw_run_with(POLICY, &["--log", "json"]).expect("fw");
    daemon.terminate().expect("SIGTERM");
    let log = lab.fw_log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let ready = lines.iter().find(|line| message(line).starts_with("ready")).expect("a line for ready");
    assert_eq!(ready["level"], "INFO", "{ready}");
    assert_eq!(ready["networks"], 2, "{ready}");
    assert!(ready["hooks"].as_u64().is_some_and(|hooks| hooks > 0), "{ready}");
    assert!(ready["timestamp"].is_string(), "{ready}");

    let arguments = ["run", "--log", "journald", "--policy", "/run/lab/policy.toml", "--docker", SOCKET];
    let output = lab.fw_command(&arguments).expect("a command").output().expect("fw runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to systemd's journal"), "there is none yet: {said}");

    if !lab.host().succeeds(&["test", "-x", JOURNALD]) || !lab.host().succeeds(&["journalctl", "--version"]) {
        eprintln!("SKIPPED: lines_of_json_and_entries_of_the_journal: no {JOURNALD} or no journalctl here");
        return;
    }
    // The lab's /run is its own: so is what this one writes.
    lab.host().script("mkdir -p /run/systemd/journal /run/log/journal").expect("its place");
    lab.keep_running(lab.host().command(JOURNALD).stderr(Stdio::null())).expect("the journal");
    let socket = lab.path("/run/systemd/journal/socket");
    wait::until("the journal listens", Duration::from_secs(10), || socket.exists().then_some(()))
        .expect("a socket");

    // As a unit of systemd has it, and as one whose standard error is led elsewhere. systemd-cat 252 leaves the variable out.
    let by = |redirect: &str| {
        let line = format!(
            "systemd-cat sh -c 'export JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); {} run --policy /run/lab/policy.toml --bpffs {BPFFS} --docker {SOCKET} {redirect} & \
             echo $! >/run/lab/cat.pid; wait'",
            fw_binary().expect("fw").display()
        );
        lab.keep_running(lab.host().command("sh").args(["-c", &line])).expect("fw");
    };
    by("");
    let ready = entry(&lab);
    assert_eq!(ready["PRIORITY"], "5", "as tracing-journald maps INFO: {ready}");
    assert_eq!(ready["FW_NETWORKS"], "2", "{ready}");
    end(&lab);
    by("2>/run/lab/elsewhere");
    wait::until("a line of text", Duration::from_secs(20), || {
        let text = std::fs::read_to_string(lab.path("/run/lab/elsewhere")).unwrap_or_default();
        text.contains("ready: the policy is in force").then_some(())
    })
    .expect("text where standard error does not lead to the journal");
    end(&lab);
    let told = entries(&lab).iter().filter(|entry| message_of(entry).starts_with("ready")).count();
    assert_eq!(told, 1, "what is told elsewhere is not told twice");
    lab.fw_down().expect("fw down");
}

/// Ends the fw that `systemd-cat` has started, and waits for its end.
fn end(lab: &Lab) {
    let script = "pid=$(cat /run/lab/cat.pid); rm /run/lab/cat.pid; kill $pid; tail --pid=$pid -f /dev/null";
    lab.host().script(script).expect("SIGTERM");
}

/// The last entry that says that fw is ready.
fn entry(lab: &Lab) -> Value {
    let ready = || entries(lab).into_iter().rfind(|entry| message_of(entry).starts_with("ready"));
    wait::until("an entry", Duration::from_secs(10), ready).expect("it is in the journal")
}

/// Entries of fw with fields of their own, not lines of its standard error.
fn entries(lab: &Lab) -> Vec<Value> {
    let arguments = ["journalctl", "--no-pager", "-q", "-D", "/run/log/journal", "-o", "json", "-t", "fw"];
    let text = lab.host().run(&arguments).unwrap_or_default();
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries.filter(|entry| entry["_TRANSPORT"] == "journal").collect()
}

fn message(line: &Value) -> &str {
    line["message"].as_str().unwrap_or_default()
}

fn message_of(entry: &Value) -> &str {
    entry["MESSAGE"].as_str().unwrap_or_default()
}

const JOURNALD: &str = "/lib/systemd/systemd-journald";
const POLICY: &str = "[[allow]]\nname = \"ssh\"\nproto = \"tcp\"\nports = [22]\n";
