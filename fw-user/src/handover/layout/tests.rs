//! Plans for the rule sets of Docker's generations, checked by carrying them out on a model of a chain.

use proptest::prelude::*;

use super::*;
use crate::handover::Marks;

const IN: &str = "-m mark --mark 0x20000/0x60000 -m comment --comment fw -j ACCEPT";
const REACH: &str = "-m mark --mark 0x60000/0x60000 -m comment --comment fw -j ACCEPT";
const OUT_ETH0: &str = "-o eth0 -m mark --mark 0x40000/0x60000 -m comment --comment fw -j ACCEPT";
const OUT_WG0: &str = "-o wg0 -m mark --mark 0x40000/0x60000 -m comment --comment fw -j ACCEPT";
const OLD_MARK: &str = "-m mark --mark 0x1000000/0x3000000 -m comment --comment fw -j ACCEPT";
const ANY: &str = "-m mark ! --mark 0x0/0x60000 -m comment --comment fw -j ACCEPT";
const BAN: &str = "-s 192.0.2.66/32 -m comment --comment \"fail2ban \\\"sshd\\\"\" -j DROP";
const ALIKE: &str = "-m comment --comment fw -m mark --mark 0x20000/0x60000 -j DROP";

/// The tables of Docker 20.10 to 27 with one published port; `{user}` stands for the rules of DOCKER-USER.
const DOCKER_20: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
{user}COMMIT
";

/// The tables of Docker 28.5; raw refuses direct access per endpoint, DOCKER-USER has no final RETURN.
const DOCKER_28: &str = "\
*raw
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
{raw}-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
*nat
:POSTROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
{user}COMMIT
";

fn marks() -> Marks {
    Marks::new(17).expect("bit 17 is allowed")
}

fn desired(uplinks: &[&str], reach: bool) -> Desired {
    Desired::new(marks(), uplinks.iter().copied(), reach).expect("the names are plain")
}

fn lines(chain: &str, rules: &[&str]) -> String {
    rules.iter().flat_map(|rule| ["-A ", chain, " ", rule, "\n"]).collect()
}

fn docker_20(user: &[&str]) -> String {
    DOCKER_20.replace("{user}", &lines(USER, user))
}

fn docker_28(user: &[&str], raw: &[&str]) -> String {
    DOCKER_28.replace("{user}", &lines(USER, user)).replace("{raw}", &lines("PREROUTING", raw))
}

/// Carries out edits as iptables-restore does, failing where it would fail.
fn carry_out(text: &str, edits: &[Edit]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for Edit { table, chain, how, spec } in edits {
        let start = lines.iter().position(|line| *line == format!("*{table}")).expect("the table is there");
        let end = start + lines[start..].iter().position(|line| line == "COMMIT").expect("the table ends");
        let prefix = format!("-A {chain} ");
        let of_chain: Vec<usize> = (start..end).filter(|&at| lines[at].starts_with(&prefix)).collect();
        let rule = format!("{prefix}{spec}");
        match how {
            How::Delete => {
                let at = of_chain.iter().find(|&&at| lines[at] == rule).expect("a deleted rule is there");
                lines.remove(*at);
            }
            How::Insert(number) => {
                let at = of_chain.get(number - 1).expect("an insertion has a rule behind it");
                lines.insert(*at, rule);
            }
            How::Append => lines.insert(of_chain.last().map_or(end, |at| at + 1), rule),
            How::Make | How::Empty | How::Remove => unreachable!("only chains of our own are made"),
        }
    }
    lines.join("\n") + "\n"
}

fn settled(text: &str, desired: &Desired) -> String {
    let after = carry_out(text, &plan(text, desired));
    assert_eq!(plan(&after, desired), [], "a second pass changes nothing in\n{after}");
    after
}

#[test]
fn docker_20_gets_the_rules_before_its_final_return() {
    let before = docker_20(&["-j RETURN"]);
    let after = settled(&before, &desired(&["wg0", "eth0"], false));
    assert_eq!(after, docker_20(&[IN, REACH, OUT_ETH0, OUT_WG0, "-j RETURN"]));
    assert_eq!(carry_out(&after, &plan_removal(&after)), before);
}

#[test]
fn docker_28_gets_them_at_the_end_and_one_in_raw() {
    let before = docker_28(&[], &[]);
    let edits = plan(&before, &desired(&["eth0"], false));
    assert!(edits[..3].iter().all(|edit| edit.how == How::Append), "{edits:?}");
    let after = settled(&before, &desired(&["eth0"], false));
    assert_eq!(after, docker_28(&[IN, REACH, OUT_ETH0], &[ANY]));
    assert_eq!(carry_out(&after, &plan_removal(&after)), before);
}

#[test]
fn raw_is_left_alone_without_dockers_drops() {
    let loopback_only = docker_28(&[], &[]).replace(
        "-d 172.17.0.2/32 ! -i docker0 -j DROP",
        "-d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 8080 -j DROP",
    );
    assert!(plan(&loopback_only, &desired(&[], true)).iter().all(|edit| edit.table != "raw"));
    let per_port = loopback_only.replace("! -i lo", "! -i br-0123456789ab");
    assert!(plan(&per_port, &desired(&[], false)).iter().any(|edit| edit.table == "raw"));
    // The drops went with the last container: our rule goes too.
    let gone =
        docker_28(&[IN, REACH], &[ANY]).replace("-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP\n", "");
    assert_eq!(settled(&gone, &desired(&[], false)), gone.replace(&format!("-A PREROUTING {ANY}\n"), ""));
}

/// An earlier fw wrote one for IN, and one for REACH.
#[test]
fn one_rule_in_raw_takes_the_place_of_two() {
    let before = docker_28(&[IN, REACH], &[IN, REACH, BAN]);
    let after = settled(&before, &desired(&[], false));
    assert_eq!(after, docker_28(&[IN, REACH], &[ANY, BAN]));
    let report = report(&after, &desired(&[], false)).expect("there is a DOCKER-USER");
    assert_eq!((report.raw, report.skipped.len()), (1, 1));
}

#[test]
fn reach_adds_a_rule_at_the_head_of_nat() {
    let before = docker_28(&[], &["-s 192.0.2.9/32 -j DROP"]);
    let after = settled(&before, &desired(&[], true));
    let expected = docker_28(&[IN, REACH], &[ANY, "-s 192.0.2.9/32 -j DROP"])
        .replace("-A POSTROUTING -s", &format!("-A POSTROUTING {REACH}\n-A POSTROUTING -s"));
    assert_eq!(after, expected);
    assert_eq!(
        settled(&after, &desired(&[], false)),
        docker_28(&[IN, REACH], &[ANY, "-s 192.0.2.9/32 -j DROP"])
    );
    assert_eq!(carry_out(&after, &plan_removal(&after)), before);
}

#[test]
fn without_docker_user_nothing_is_written_and_leftovers_go() {
    let text = docker_28(&[], &[IN]).replace(":DOCKER-USER - [0:0]\n", "");
    assert_eq!(settled(&text, &desired(&["eth0"], true)), text.replace(&format!("-A PREROUTING {IN}\n"), ""));
    assert_eq!(plan("", &desired(&["eth0"], true)), []);
    assert_eq!(report(&text, &desired(&[], false)), None);
}

#[test]
fn foreign_rules_stay_in_front() {
    let appended_later = docker_20(&[IN, REACH, OUT_ETH0, BAN, "-j RETURN"]);
    let after = settled(&appended_later, &desired(&["eth0"], false));
    assert_eq!(after, docker_20(&[BAN, IN, REACH, OUT_ETH0, "-j RETURN"]));
    let behind_return = docker_20(&["-j RETURN", BAN, IN]);
    let after = settled(&behind_return, &desired(&[], false));
    assert_eq!(after, docker_20(&[IN, REACH, "-j RETURN", BAN]));
}

#[test]
fn what_is_right_is_not_touched() {
    let one_uplink = docker_20(&[BAN, IN, REACH, OUT_ETH0, "-j RETURN"]);
    let edits = plan(&one_uplink, &desired(&["eth0", "wg0"], false));
    assert_eq!(restore_input(&edits), format!("*filter\n-I DOCKER-USER 5 {OUT_WG0}\nCOMMIT\n"));
    let without_return = docker_20(&[BAN, IN, REACH, OUT_ETH0]);
    let edits = plan(&without_return, &desired(&["wg0"], false));
    assert_eq!(
        restore_input(&edits),
        format!("*filter\n-D DOCKER-USER {OUT_ETH0}\n-A DOCKER-USER {OUT_WG0}\nCOMMIT\n")
    );
}

#[test]
fn misplaced_duplicated_and_outdated_rules_are_put_right() {
    for user in [
        &[OUT_ETH0, REACH, IN][..],
        &[IN, IN, REACH, OUT_ETH0],
        &[IN, REACH, IN, OUT_ETH0],
        &[OLD_MARK, IN, REACH, OUT_WG0],
        &[IN, REACH, OLD_MARK],
    ] {
        let after = settled(&docker_28(user, &[]), &desired(&["eth0"], false));
        assert_eq!(after, docker_28(&[IN, REACH, OUT_ETH0], &[ANY]), "{user:?}");
    }
}

#[test]
fn removal_leaves_rules_that_only_look_like_ours() {
    let text = docker_20(&[ALIKE, BAN, IN, OLD_MARK, OUT_WG0, IN, "-j RETURN"]);
    let text =
        text.replace("-A FORWARD -j DOCKER-USER\n", &format!("-A FORWARD -j DOCKER-USER\n-A FORWARD {IN}\n"));
    let after = carry_out(&text, &plan_removal(&text));
    let expected = docker_20(&[ALIKE, BAN, "-j RETURN"]);
    let expected = expected
        .replace("-A FORWARD -j DOCKER-USER\n", &format!("-A FORWARD -j DOCKER-USER\n-A FORWARD {IN}\n"));
    assert_eq!(after, expected, "rules in chains that fw never writes to are not its own");
}

#[test]
fn the_report_tells_what_is_there_and_what_is_not() {
    let text = docker_28(&[BAN, "-j DROP", OLD_MARK, REACH], &["-s 192.0.2.9/32 -j DROP"])
        .replace(&format!("-A DOCKER-USER {REACH}"), &format!("[7:420] -A DOCKER-USER {REACH}"));
    let report = report(&text, &desired(&["eth0"], false)).expect("there is a DOCKER-USER");
    assert!(report.reached);
    let rule = format!("-A DOCKER-USER {REACH}");
    assert_eq!(report.in_place, [Placed { table: "filter", rule, packets: 7, bytes: 420 }]);
    let missing = [("DOCKER-USER", IN), ("DOCKER-USER", OUT_ETH0), ("PREROUTING", ANY)];
    assert_eq!(report.missing, missing.map(|(chain, rule)| format!("-A {chain} {rule}")));
    assert_eq!(report.stale, [format!("-A DOCKER-USER {OLD_MARK}")]);
    assert_eq!(report.foreign, [format!("-A DOCKER-USER {BAN}"), "-A DOCKER-USER -j DROP".into()]);
    assert_eq!(report.blocked_by.as_deref(), Some("-A DOCKER-USER -j DROP"));
    assert_eq!(report.skipped, ["-A PREROUTING -s 192.0.2.9/32 -j DROP"]);
}

#[test]
fn names_that_iptables_would_misread_are_refused() {
    for name in ["", "eth+", "a b", "a\"b", "-o", "!", "a\nb", "abcdefghijklmnop", "a/b"] {
        assert!(Desired::new(marks(), [name], false).is_err(), "{name:?}");
    }
    assert!(Desired::new(marks(), ["eth0", "br-0123456789ab", "eth0.100", "wg+0"], false).is_ok());
    assert!(Marks::new(16).is_err() && Marks::new(31).is_err() && Marks::new(30).is_ok());
}

proptest! {
    /// Whatever stands in the chains: one plan puts all right, foreign rules keep their order, removal leaves only them.
    #[test]
    fn any_mixture_is_put_right_in_one_pass(
        user in prop::collection::vec(prop::sample::select(vec![IN, REACH, OUT_ETH0, OUT_WG0, OLD_MARK, BAN, ALIKE, "-j RETURN"]), 0..9),
        raw in prop::collection::vec(prop::sample::select(vec![IN, REACH, ANY, OLD_MARK, BAN]), 0..6),
        uplinks in prop::sample::subsequence(vec!["eth0", "wg0"], 0..=2),
        reach: bool,
    ) {
        let text = docker_28(&user, &raw);
        let desired = desired(&uplinks, reach);
        let after = settled(&text, &desired);
        let foreign = |rules: &[&'static str]| -> Vec<&'static str> {
            rules.iter().copied().filter(|rule| [BAN, ALIKE, "-j RETURN"].contains(rule)).collect()
        };
        let bare = docker_28(&foreign(&user), &foreign(&raw));
        prop_assert_eq!(carry_out(&after, &plan_removal(&after)), bare);
        let report = report(&after, &desired).expect("there is a DOCKER-USER");
        prop_assert!(report.missing.is_empty() && report.stale.is_empty());
        prop_assert_eq!(report.in_place.len(), 2 + uplinks.len() + 1 + usize::from(reach));
        let save = Save::parse(&after);
        let rules: Vec<&str> = save.chain("filter", USER).iter().map(|rule| rule.spec).collect();
        let ours = rules.iter().position(|rule| *rule == IN).expect("the rule for IN is there");
        let alive = user.iter().position(|rule| *rule == "-j RETURN").unwrap_or(user.len());
        prop_assert_eq!(&rules[..ours], &foreign(&user[..alive])[..]);
    }
}

#[test]
fn docker_s_nat_is_there_as_long_as_packets_are_led_to_it() {
    let leads = |text: &str| has_nat(&Save::parse(text));
    assert!(leads(DOCKER_20));
    let jump = "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n";
    assert!(!leads(&DOCKER_20.replace(jump, "")), "flushed");
    assert!(!leads(&DOCKER_20.replace(jump, "-A PREROUTING -j DOCKER_OUTPUT\n")), "another chain");
    assert!(!leads(""), "nothing is left");
}
