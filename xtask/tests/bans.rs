//! Bans, asked for from a running daemon: in force at once, kept over restarts, over in time.

#[path = "control/ground.rs"]
#[expect(dead_code, reason = "shared with the tests of control, which use more of it")]
mod control;
#[path = "holes/ground.rs"]
#[expect(dead_code, reason = "shared with the holes, which use more of it")]
mod ground;

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use control::{ends, fw};
use ground::{Ground, POLICY};
use serde_json::Value;
use xtask::lab::{HOST, HOST6, Lab, OUTSIDE, OUTSIDE6, ask, wait};

/// The whole life of bans, on one host.
#[test]
fn whoever_is_banned_is_out_until_the_ban_is_over() {
    let Some(ground) = Ground::start("whoever_is_banned_is_out_until_the_ban_is_over") else { return };
    let lab = &ground.lab;
    let outside = lab.outside();
    let banned = || fw(lab, &["ban", "198.18.0.2"], None);
    ends(&banned(), 1, &["fw run"]);
    let mut daemon = lab.fw_run(POLICY).expect("fw");
    let to_published = || outside.tcp((HOST, 8080).into()).expect("a probe").reached();
    let over_ipv6 = || outside.tcp((HOST6, 8080).into()).expect("a probe").reached();
    assert!(to_published() && over_ipv6(), "before any ban");
    refused(lab);

    let mut held = outside.connect((HOST, 8080).into()).expect("a connection");
    let mut begun_inside = ground.a2.place.connect((OUTSIDE, 443).into()).expect("a connection");
    assert!(ask(&mut held).reached_at("a1") && ask(&mut begun_inside).reached());
    ends(&fw(lab, &["ban", "198.18.0.2", "--why", "test"], None), 0, &["1 banned"]);
    let dropped = ground.drops_during("uplink_ingress", "denied", || {
        assert!(!to_published(), "banned");
        assert!(!ask(&mut held).reached(), "what was open is cut");
    });
    assert!(dropped > 0);
    assert!(!ask(&mut begun_inside).reached(), "nobody answers from there, either");
    assert!(over_ipv6(), "his other address is not banned");
    wait::until("flows are cut", Duration::from_secs(10), || all_cut(lab).then_some(()))
        .unwrap_or_else(|error| panic!("{error:#}:\n{}", lab.fw(&["table", "flows"]).expect("flows")));
    let status = lab.fw_status().expect("a status");
    assert!(counted(&status, "ban") > 0, "{}", status["rules"]);

    ends(&banned(), 0, &["0 banned, 1 banned already"]);
    ends(&fw(lab, &["plan", "--docker", xtask::lab::SOCKET, control::FILE], None), 0, &[]);
    ends(&fw(lab, &["reload"], None), 0, &["changed: nothing"]);
    assert!(!to_published(), "a full pass leaves bans alone");
    daemon.kill().expect("SIGKILL");
    daemon = lab.fw_run(POLICY).expect("fw");
    assert!(!to_published(), "after a crash and a restart");
    let bans = listed(lab);
    assert_eq!(bans.len(), 1, "{bans:?}");
    assert_eq!((&bans[0]["prefix"], &bans[0]["why"]), (&"198.18.0.2/32".into(), &"test".into()));

    ends(&fw(lab, &["unban", "198.18.0.2"], None), 0, &["1 banned no more"]);
    assert!(to_published(), "not banned any more: {:?}", lab.fw_drops());
    ends(&fw(lab, &["unban", "198.18.0.2"], None), 0, &["198.18.0.2 was not banned", "0 banned no more"]);
    becomes(lab, "what a ban has cut may go on after it", || !any_cut(lab));

    // A prefix, of IPv6, while Docker hangs and the daemon waits for its answer.
    lab.signal_docker("STOP").expect("a signal");
    daemon.signal("HUP").expect("a signal");
    ends(&fw(lab, &["ban", "2001:db8:18::/48", "--for", "1h", "--force"], None), 0, &["1 banned"]);
    assert!(!over_ipv6() && to_published(), "the other way round");
    ends(&fw(lab, &["unban", "2001:db8:18::/48"], None), 0, &["1 banned no more"]);
    assert!(over_ipv6());
    lab.signal_docker("CONT").expect("a signal");

    ends(&fw(lab, &["ban", "198.18.0.2", &OUTSIDE6.to_string(), "--for", "3s"], None), 0, &["2 banned"]);
    assert!(!over_ipv6(), "while it lasts");
    becomes(lab, "open again", || to_published() && over_ipv6());
    assert_eq!(listed(lab), Vec::<Value>::new());
    ends(&fw(lab, &["ban", "198.18.0.2", "--for", "1s"], None), 0, &["1 banned"]);
    daemon.kill().expect("SIGKILL");
    wait::until("the end of the ban", Duration::from_secs(10), || kept(lab).is_empty().then_some(()))
        .expect("a second passes");
    daemon = lab.fw_run(POLICY).expect("fw");
    assert!(to_published(), "it was over before the daemon began");

    // Many at once, and many in a row: `FW_BANS=10000` says how many, and `--nocapture` what they took.
    let many: u32 = std::env::var("FW_BANS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let list = (0..many).fold(String::new(), |mut list, number| {
        writeln!(list, "203.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255).expect("a string");
        list
    });
    fs::write(lab.path("/run/lab/list"), list).expect("a list");
    let begun = Instant::now();
    ends(&fw(lab, &["ban", "--file", "/run/lab/list"], None), 0, &[&format!("{many} banned")]);
    println!("{many} bans of a list: {:?}", begun.elapsed());
    assert_eq!(lab.fw(&["table", "denied"]).expect("a table").lines().count(), many as usize + 1);
    let begun = Instant::now();
    let row = many / 100;
    for number in 0..row {
        let one = format!("192.0.{}.{}", 2 + number / 250, 1 + number % 250);
        ends(&fw(lab, &["ban", &one, "--for", "1h"], None), 0, &["1 banned"]);
    }
    println!("{row} bans in a row beside them: {:?}", begun.elapsed());
    for line in lab.fw_log().lines().filter(|line| line.contains(" banned ")) {
        println!("{line}");
    }
    daemon.terminate().expect("SIGTERM");
    let daemon = lab.fw_run(POLICY).expect("fw");
    assert_eq!(listed(lab).len(), (many + row) as usize);
    ends(&fw(lab, &["unban", "--file", "/run/lab/list"], None), 0, &[&format!("{many} banned no more")]);
    assert_eq!(lab.fw(&["table", "denied"]).expect("a table").lines().count(), row as usize + 1);
    daemon.terminate().expect("SIGTERM");
}

/// What nobody means is refused, and changes nothing.
fn refused(lab: &Lab) {
    let ssh = Some("198.18.0.2 50000 198.18.0.1 22");
    for (prefix, ssh, why) in [
        ("198.18.0.2", ssh, "from where you type"),
        ("198.18.0.0/30", None, "198.18.0.1, an address of this host"),
        ("127.0.0.1", None, "loopback"),
        ("0.0.0.0/1", None, "loopback"),
        ("::/0", None, "everybody"),
        ("10.1.0.2", None, "network of this host's containers"),
    ] {
        ends(&fw(lab, &["ban", prefix, "203.0.113.1"], ssh), 1, &[prefix, why, "--force"]);
    }
    for wrong in [
        &["ban"] as &[&str],
        &["ban", "203.0.113.1/24"],
        &["ban", "example.org"],
        &["ban", "203.0.113.1", "--for", "0s"],
        &["ban", "203.0.113.1", "--why", "two\nlines"],
    ] {
        ends(&fw(lab, wrong, None), 2, &[]);
    }
    assert_eq!(listed(lab), Vec::<Value>::new());
    assert_eq!(lab.fw(&["table", "denied"]).expect("a table"), "(empty)\n");
}

fn listed(lab: &Lab) -> Vec<Value> {
    let text = lab.fw(&["bans", "--json"]).expect("the bans");
    serde_json::from_str(&text).expect("JSON")
}

/// The bans in the daemon's file that are not over.
fn kept(lab: &Lab) -> Vec<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    let text = fs::read_to_string(lab.path(&format!("{}.bans", control::FILE))).expect("the file of bans");
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let last = lines.next_back().into_iter();
    last.filter(|line| line["ban"]["until"].as_u64().is_some_and(|until| until > now))
        .map(|line| line.to_string())
        .collect()
}

fn counted(status: &Value, rule: &str) -> u64 {
    let rules = status["rules"].as_array().into_iter().flatten();
    rules.filter(|row| row["rule"] == rule).filter_map(|row| row["packets"].as_u64()).sum()
}

/// The states of flows with the banned address.
fn his_flows(lab: &Lab) -> Vec<Value> {
    let text = lab.fw(&["flows", "--json"]).expect("flows");
    let flows: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let his = flows.into_iter().filter(|flow| flow["remote"] == OUTSIDE.to_string());
    his.map(|flow| flow["state"].clone()).collect()
}

fn all_cut(lab: &Lab) -> bool {
    let states = his_flows(lab);
    !states.is_empty() && states.iter().all(|state| state == "cut")
}

fn any_cut(lab: &Lab) -> bool {
    his_flows(lab).iter().any(|state| state == "cut")
}

#[track_caller]
fn becomes(lab: &Lab, what: &str, mut is: impl FnMut() -> bool) {
    wait::until(what, Duration::from_secs(15), || is().then_some(()))
        .unwrap_or_else(|error| panic!("{error:#}:\n{}", lab.fw_log()));
}
