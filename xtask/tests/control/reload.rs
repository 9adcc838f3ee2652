//! `fw reload`, `fw confirm`: a good policy is in force when the command ends, a bad one changes nothing, and one on trial
//! goes again.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use xtask::lab::{self, BPFFS, HOST, Lab, Options, wait};

use crate::ground::{FILE, becomes, ends, fw, maps, policy, reached, write};

const KEPT: &str = "/run/lab/policy.toml.confirmed";
/// A connection on which an operator types, and another one of his.
const SSH: &str = "198.18.0.2 50000 198.18.0.1 22";
const ANOTHER_SSH: &str = "198.18.0.2 50001 198.18.0.1 22";

fn serving(lab: &Lab) -> Vec<lab::Server> {
    [9100, 9101, 22]
        .map(|port| lab.host().serve_tcp(&format!("[::]:{port}"), "H").expect("a service"))
        .into_iter()
        .collect()
}

#[test]
fn a_reload_is_in_force_when_it_ends_and_a_bad_one_changes_nothing() {
    if !lab::available("a_reload_is_in_force_when_it_ends_and_a_bad_one_changes_nothing") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let _services = serving(&lab);
    ends(&fw(&lab, &["reload"], None), 1, &["nothing of fw is in force"]);
    let daemon = lab.fw_run(&policy(9100)).expect("fw");
    let mode = lab.host().script("stat -c %a /run/fw/*.sock; stat -c %a /run/fw").expect("the socket");
    assert_eq!(mode, "600\n700\n");

    write(&lab, &policy(9101));
    ends(&fw(&lab, &["reload"], None), 0, &["the policy is in force", "ports +2 -2"]);
    assert!(!reached(&lab, 9100) && reached(&lab, 9101), "in force when the command ends");
    ends(&fw(&lab, &["reload"], None), 0, &["changed: nothing"]);

    let before = maps(&lab);
    let long = (0..5000).fold(String::new(), |text, rule| {
        text + &format!("[[allow]]\nname = \"{rule}\"\nproto = \"tcp\"\nports = [1]\n")
    });
    let bad: [(&[u8], &[&str]); 8] = [
        (b"[[allow]\n", &["policy.toml:1:", "not valid TOML"]),
        (b"[[allow]]\nname = \"half\"\nproto = \"tc", &["policy.toml:3:"]),
        (
            b"[[allow]]\nname = \"x\"\nproto = \"icmp\"\nfrom = [\"nobody\"]\n",
            &["policy.toml:4:9:", "neither a set nor a prefix"],
        ),
        (b"[sets]\na = [\"10.0.0.1/8\"]\n", &["policy.toml:2:6:", "expected \"10.0.0.0/8\""]),
        (b"mode = \"\xff\"\n", &["policy.toml:1:9:", "UTF-8"]),
        (b"[sets]\na = { file = \"/dev/zero\" }\n", &["policy.toml:2:", "/dev/zero", "longer than 1 MB"]),
        (b"[uplink]\ninterfaces = [\"eth9\"]\n", &["uplinks that do not exist: eth9"]),
        (long.as_bytes(), &["more than"]),
    ];
    for (text, parts) in bad {
        fs::write(lab.path(FILE), text).expect("a policy");
        let ended = fw(&lab, &["reload"], None);
        ends(&ended, 2, parts);
        assert_eq!(ended.out, "");
        assert_eq!(maps(&lab), before, "a bad policy changed the maps: {parts:?}");
    }
    fs::remove_file(lab.path(FILE)).expect("no policy");
    ends(&fw(&lab, &["reload"], None), 2, &["cannot read the policy file"]);
    assert_eq!(maps(&lab), before);
    // An empty file is a policy: nothing may come in.
    write(&lab, "");
    ends(&fw(&lab, &["reload"], None), 0, &["the policy is in force"]);
    assert!(!reached(&lab, 22));

    // Where the operator sits is not closed behind him.
    write(&lab, &policy(9100));
    ends(&fw(&lab, &["reload"], Some(SSH)), 0, &[]);
    write(&lab, "[[allow]]\nname = \"only\"\nproto = \"tcp\"\nports = [9101]\n");
    let before = maps(&lab);
    ends(&fw(&lab, &["reload"], Some(SSH)), 1, &["198.18.0.2:50000", "--confirm", "--force"]);
    assert_eq!(maps(&lab), before);
    // Under sudo the variable is gone, and an ancestor has it.
    let under_sudo =
        format!("env -u SSH_CONNECTION {} reload --bpffs {BPFFS}", lab::fw_binary().expect("fw").display());
    let mut shell = lab.host().command("env");
    shell.args([&format!("SSH_CONNECTION={SSH}"), "sh", "-c", &format!("{under_sudo}; exit $?")]);
    let ended = shell.output().expect("fw runs");
    assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("198.18.0.2:50000"));
    ends(&fw(&lab, &["reload", "--force"], Some(SSH)), 0, &["WARNING"]);
    assert!(!reached(&lab, 22) && reached(&lab, 9101));

    daemon.terminate().expect("SIGTERM");
    ends(&fw(&lab, &["reload"], None), 1, &["no daemon answers"]);
    lab.fw_down().expect("fw down");
    assert!(!lab.path("/run/fw").exists(), "the socket's folder went with the last socket");
}

#[test]
fn a_policy_on_trial_goes_again_unless_it_is_confirmed_from_elsewhere() {
    if !lab::available("a_policy_on_trial_goes_again_unless_it_is_confirmed_from_elsewhere") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let _services = serving(&lab);
    let daemon = lab.fw_run(&policy(9100)).expect("fw");
    ends(&fw(&lab, &["confirm"], None), 1, &["no policy waits"]);

    // Not confirmed.
    write(&lab, &policy(9101));
    ends(&fw(&lab, &["reload", "--confirm", "3s"], None), 0, &["comes back in", "fw confirm"]);
    assert!(reached(&lab, 9101), "on trial it is in force");
    let problems = lab.fw_status().expect("status")["problems"].to_string();
    assert!(problems.contains("on trial"), "{problems}");
    becomes(&lab, 9101, false);
    assert!(reached(&lab, 9100), "the policy before is back");
    ends(&fw(&lab, &["confirm"], None), 1, &["no policy waits"]);
    // A signal may be a script's: it does not bring back what was taken back.
    daemon.signal("HUP").expect("SIGHUP");
    wait::until("the signal is refused", Duration::from_secs(15), || {
        lab.fw_log().contains("`fw reload` puts it in force").then_some(())
    })
    .expect("a refusal");
    assert!(reached(&lab, 9100) && !reached(&lab, 9101), "{}", lab.fw_log());

    // Confirmed, by somebody who has logged in once more.
    ends(&fw(&lab, &["reload", "--confirm", "1h"], Some(SSH)), 0, &[]);
    write(&lab, &policy(9100));
    write(&lab, &format!("{}# another\n", policy(9100)));
    ends(&fw(&lab, &["reload"], None), 1, &["waits for `fw confirm`"]);
    // A file that is at fault is told from one that has to wait.
    write(&lab, "[[allow]\n");
    for again in [&["reload"][..], &["reload", "--confirm", "1h"]] {
        ends(&fw(&lab, again, None), 2, &["policy.toml:1:", "not valid TOML"]);
    }
    write(&lab, &format!("{}# another\n", policy(9100)));
    daemon.signal("HUP").expect("SIGHUP");
    ends(&fw(&lab, &["confirm"], Some(SSH)), 1, &["proves nothing"]);
    assert!(reached(&lab, 9101) && !reached(&lab, 9100));
    ends(&fw(&lab, &["confirm"], Some(ANOTHER_SSH)), 0, &["confirmed"]);
    assert!(!lab.path(KEPT).exists());
    assert!(reached(&lab, 9101) && !reached(&lab, 9100));

    // The policy before, written again, ends a trial.
    write(&lab, &policy(9101));
    ends(&fw(&lab, &["reload"], None), 0, &[]);
    write(&lab, &policy(9100));
    ends(&fw(&lab, &["reload", "--confirm", "1h"], None), 0, &[]);
    write(&lab, &policy(9101));
    ends(&fw(&lab, &["reload"], None), 0, &[]);
    assert!(reached(&lab, 9101) && !lab.path(KEPT).exists());
    ends(&fw(&lab, &["confirm"], None), 1, &["no policy waits"]);

    // A daemon that is killed meanwhile does not begin with what nobody has confirmed; nor does one that is ended.
    write(&lab, &policy(9100));
    ends(&fw(&lab, &["reload", "--confirm", "1h"], None), 0, &[]);
    assert!(reached(&lab, 9100));
    daemon.kill().expect("SIGKILL");
    assert!(reached(&lab, 9100), "the tables stay until somebody begins again");
    let daemon = lab.fw_run(&policy(9100)).expect("fw again");
    assert!(!reached(&lab, 9100) && reached(&lab, 9101), "{}", lab.fw_log());
    assert!(lab.fw_log().contains("nobody has confirmed the policy"), "{}", lab.fw_log());
    ends(&fw(&lab, &["reload", "--confirm", "1h"], None), 0, &[]);
    assert!(reached(&lab, 9100));
    daemon.terminate().expect("SIGTERM");
    assert!(!reached(&lab, 9100) && reached(&lab, 9101), "an ending daemon takes it back: {}", lab.fw_log());
    let daemon = lab.fw_run(&policy(9100)).expect("fw again");
    assert!(!reached(&lab, 9100));
    // Reloading the file is a decision for it.
    ends(&fw(&lab, &["reload"], None), 0, &[]);
    assert!(reached(&lab, 9100) && !lab.path(KEPT).exists());
    daemon.terminate().expect("SIGTERM");
    let daemon = lab.fw_run(&policy(9100)).expect("fw again");
    assert!(reached(&lab, 9100));
    daemon.terminate().expect("SIGTERM");
}

/// Z13: twenty at once, of two policies. What both open is never closed on the way, and the last file wins.
#[test]
fn of_many_reloads_at_once_each_is_whole_and_the_last_file_stays() {
    if !lab::available("of_many_reloads_at_once_each_is_whole_and_the_last_file_stays") {
        return;
    }
    let lab = Lab::start(Options::default()).expect("a lab");
    let _services = serving(&lab);
    let daemon = lab.fw_run(&policy(9100)).expect("fw");
    let done = AtomicBool::new(false);
    let refused = thread::scope(|scope| {
        // What is open under both policies must never be closed by a change from one to the other.
        let common = scope.spawn(|| {
            let mut refused = 0;
            while !done.load(Ordering::Relaxed) {
                refused += u32::from(!lab.outside().tcp((HOST, 22).into()).expect("a probe").reached());
            }
            refused
        });
        let asked: Vec<_> = (0..20_u16)
            .map(|turn| {
                let lab = &lab;
                scope.spawn(move || {
                    // Whole at once, as editors do it.
                    let new = format!("{FILE}.{turn}");
                    fs::write(lab.path(&new), policy(9100 + turn % 2)).expect("a policy");
                    fs::rename(lab.path(&new), lab.path(FILE)).expect("renamed");
                    fw(lab, &["reload"], None)
                })
            })
            .collect();
        for asked in asked {
            ends(&asked.join().expect("no panic"), 0, &["the policy is in force"]);
        }
        done.store(true, Ordering::Relaxed);
        common.join().expect("no panic")
    });
    assert_eq!(refused, 0, "probes of a port that both policies open");
    // Who has written last was asked for last, or somebody after him read his file.
    let last = fs::read_to_string(lab.path(FILE)).expect("the policy");
    let (open, closed) = if last.contains("9100") { (9100, 9101) } else { (9101, 9100) };
    wait::until("the last policy", Duration::from_secs(10), || {
        (reached(&lab, open) && !reached(&lab, closed)).then_some(())
    })
    .expect("the last file is in force");
    daemon.terminate().expect("SIGTERM");
}
