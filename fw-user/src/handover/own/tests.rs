//! Edits against the text of iptables-save.

use super::super::layout::restore_input;
use super::super::nat::Jump;
use super::*;

fn chain(
    table: &'static str,
    name: &'static str,
    from: &'static str,
    place: JumpPlace,
    rules: &[&str],
) -> Chain {
    let rule = format!("-m comment --comment fw -j {name}");
    let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
    Chain { table, name, jump: Some(Jump { from, rule, place }), rules }
}

fn wanted() -> [Chain; 3] {
    [
        chain("nat", "FW-OUTPUT", "OUTPUT", JumpPlace::Anywhere, &["-p tcp -m tcp --dport 1 -j RETURN"]),
        chain("filter", "FW-FORWARD", "FORWARD", JumpPlace::Head, &["-o br-a -j DROP"]),
        chain("filter", "FW-ACCEPT", "FORWARD", JumpPlace::BeforeRefusal, &["-i br-a -j ACCEPT"]),
    ]
}

fn input(text: &str, wanted: &[Chain]) -> String {
    restore_input(&plan_own(&Save::parse(text), wanted))
}

const STANDS: &str = "*filter\n:FORWARD DROP [0:0]\n:FW-ACCEPT - [0:0]\n:FW-FORWARD - [0:0]\n\
    -A FORWARD -m comment --comment fw -j FW-FORWARD\n-A FORWARD -j FOREIGN\n\
    -A FORWARD -m comment --comment \"fw\" -j FW-ACCEPT\n-A FORWARD -s 192.0.2.1/32 -j DROP\n\
    -A FW-ACCEPT -i br-a -j ACCEPT\n-A FW-FORWARD -o br-a -j DROP\nCOMMIT\n\
    *nat\n:OUTPUT ACCEPT [0:0]\n:FW-OUTPUT - [0:0]\n-A OUTPUT -j FOREIGN\n\
    -A OUTPUT -m comment --comment fw -j FW-OUTPUT\n-A FW-OUTPUT -p tcp -m tcp --dport 1 -j RETURN\nCOMMIT\n";

#[test]
fn what_stands_is_left_alone() {
    assert_eq!(input(STANDS, &wanted()), "");
    assert!(has_own(&Save::parse(STANDS)));
    assert_eq!(own_rules(&Save::parse(STANDS)), 6);
}

#[test]
fn an_empty_host_gets_all_in_one_transaction_for_each_table() {
    let dropping = "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n";
    assert_eq!(
        input(dropping, &wanted()),
        "*filter\n:FW-FORWARD - [0:0]\n:FW-ACCEPT - [0:0]\n-A FW-FORWARD -o br-a -j DROP\n-A FW-ACCEPT -i br-a -j ACCEPT\n\
         -I FORWARD 1 -m comment --comment fw -j FW-FORWARD\n-A FORWARD -m comment --comment fw -j FW-ACCEPT\nCOMMIT\n\
         *nat\n:FW-OUTPUT - [0:0]\n-A FW-OUTPUT -p tcp -m tcp --dport 1 -j RETURN\n\
         -I OUTPUT 1 -m comment --comment fw -j FW-OUTPUT\nCOMMIT\n"
    );
    assert!(!input("", &wanted()).contains("FW-ACCEPT"), "FORWARD accepts by its policy");
}

#[test]
fn what_is_vouched_for_passes_before_a_rule_that_refuses_everything() {
    let last = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -s 192.0.2.1/32 -j DROP\n\
                -A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n";
    let written = input(last, &wanted()[1..]);
    assert!(
        written.ends_with(
            "-I FORWARD 1 -m comment --comment fw -j FW-FORWARD\n-I FORWARD 3 -m comment --comment fw -j FW-ACCEPT\nCOMMIT\n"
        ),
        "{written}"
    );
    let ours = "-A FORWARD -m comment --comment \"fw\" -j FW-ACCEPT\n";
    let behind = STANDS.replace(ours, "").replace(":FORWARD DROP", ":FORWARD ACCEPT");
    let behind = behind.replace("-A FW-ACCEPT", &format!("-A FORWARD -j DROP\n{ours}-A FW-ACCEPT"));
    assert_eq!(
        input(&behind, &wanted()),
        "*filter\n-D FORWARD -m comment --comment \"fw\" -j FW-ACCEPT\n\
         -I FORWARD 4 -m comment --comment fw -j FW-ACCEPT\nCOMMIT\n"
    );
}

/// ufw with `DEFAULT_FORWARD_POLICY="REJECT"`: the policy drops, and the last but one of its chains rejects before.
#[test]
fn a_chain_that_refuses_everything_is_a_refusal() {
    let chains = ["before-logging", "before", "after", "after-logging", "reject", "track"];
    let jumps = chains.map(|chain| format!("-A FORWARD -j ufw-{chain}-forward\n")).concat();
    let ufw = |rest: &str| {
        let before = "-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                      -A ufw-before-forward -j ufw-user-forward\n";
        format!("*filter\n:FORWARD DROP [0:0]\n{jumps}{before}{rest}COMMIT\n")
    };
    let put = |rest: &str| {
        let written = input(&ufw(rest), &wanted()[1..]);
        written.lines().rfind(|line| line.ends_with("FW-ACCEPT")).map(str::to_owned).unwrap_or_default()
    };
    let at = |number: usize| format!("-I FORWARD {number} -m comment --comment fw -j FW-ACCEPT");
    assert_eq!(put("-A ufw-reject-forward -j REJECT --reject-with icmp-port-unreachable\n"), at(6));
    let end = "-A FORWARD -m comment --comment fw -j FW-ACCEPT";
    assert_eq!(put(""), end, "DROP is the policy alone, behind everything");
    assert_eq!(put("-A ufw-user-forward -s 192.0.2.1/32 -j DROP\n"), end);
    assert_eq!(put("-A ufw-user-forward -j DROP\n"), at(3), "by a chain of a chain");
    assert_eq!(put("-A ufw-user-forward -j RETURN\n-A ufw-user-forward -j DROP\n"), end);
}

#[test]
fn only_what_is_wrong_is_written() {
    let moved = STANDS.replace(
        "-A FORWARD -m comment --comment fw -j FW-FORWARD\n-A FORWARD -j FOREIGN\n",
        "-A FORWARD -j FOREIGN\n-A FORWARD -m comment --comment fw -j FW-FORWARD\n",
    );
    assert_eq!(
        input(&moved, &wanted()),
        "*filter\n-D FORWARD -m comment --comment fw -j FW-FORWARD\n-I FORWARD 1 -m comment --comment fw -j FW-FORWARD\nCOMMIT\n"
    );
    let tampered = STANDS.replace("--dport 1 ", "--dport 2 ");
    assert_eq!(
        input(&tampered, &wanted()),
        "*nat\n:FW-OUTPUT - [0:0]\n-A FW-OUTPUT -p tcp -m tcp --dport 1 -j RETURN\nCOMMIT\n"
    );
    let twice = STANDS.replace("-A OUTPUT -j FOREIGN\n", "-A OUTPUT -m comment --comment fw -j FW-OUTPUT\n");
    let jump = "OUTPUT -m comment --comment fw -j FW-OUTPUT\n";
    let once = ["*nat\n-D ", jump, "-D ", jump, "-I OUTPUT 1 -m comment --comment fw -j FW-OUTPUT\nCOMMIT\n"];
    assert_eq!(input(&twice, &wanted()), once.concat());
}

#[test]
fn what_is_not_wanted_goes_and_nothing_else() {
    let foreign = STANDS.replace("FOREIGN", "FW-MINE").replace("*nat\n", "*nat\n:FW-MINE - [0:0]\n");
    assert_eq!(
        input(&foreign, &[]),
        "*filter\n-F FW-FORWARD\n-F FW-ACCEPT\n-D FORWARD -m comment --comment fw -j FW-FORWARD\n\
         -D FORWARD -m comment --comment \"fw\" -j FW-ACCEPT\n-X FW-FORWARD\n-X FW-ACCEPT\nCOMMIT\n\
         *nat\n-F FW-OUTPUT\n-D OUTPUT -m comment --comment fw -j FW-OUTPUT\n-X FW-OUTPUT\nCOMMIT\n"
    );
}

#[test]
fn docker_s_own_rules_are_told_from_what_it_leaves_to_administrators() {
    let writes = |text: &str| docker_writes(&Save::parse(text));
    assert!(writes("*nat\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\nCOMMIT\n"));
    assert!(writes("*filter\n-A FORWARD -j DOCKER-FORWARD\nCOMMIT\n"));
    assert!(!writes("*filter\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\nCOMMIT\n"));
    // Swarm's ingress is written even with --iptables=false.
    assert!(!writes("*nat\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER-INGRESS\nCOMMIT\n"));
}
