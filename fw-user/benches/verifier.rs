//! What the verifier walks for each program, and what one run of it costs for a typical accept and a typical drop.
//!
//! `BPF_PROG_TEST_RUN` in a namespace of its own. Rounds go over all cases in turn, so that whatever else the machine
//! does falls on all of them; the figures are medians with their spread, and hold as ratios within one run.

#[path = "../../fw-common/tests/decide/example/mod.rs"]
#[expect(dead_code, reason = "the example's host and packets serve here, its cases do not")]
mod example;
#[path = "../tests/support/namespace.rs"]
mod namespace;

use std::collections::BTreeSet;

use bytemuck::Zeroable as _;
use example::host::{BRIDGE_A, Family, PORT_A1, UPLINK, container_mac, families, mac_of, tables};
use example::packets::{Draft, ip};
use fw_common::decide::marked;
use fw_common::flow::{Flow, FlowKey, owner, state};
use fw_common::wire::{proto, tcp};
use fw_common::{Hook, Mac, Mark, Reason};
use fw_user::datapath::{Maps, Programs, Seen};
use fw_user::desired::Early;
use fw_user::plan::{State, plan};
use fw_user::reconcile::monotonic_seconds;

const ROUNDS: usize = 15;
const RUNS: u32 = 100_000;

/// One thing to measure.
struct Case {
    hook: Hook,
    what: &'static str,
    frame: Vec<u8>,
    seen: Seen,
    reason: Reason,
    /// Nanoseconds of one run, round by round.
    found: Vec<u128>,
}

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root (CAP_BPF)");
        return;
    }
    namespace::make(&BTreeSet::new());
    let (mut programs, mut maps) = Programs::load(None, &[]).expect("the programs load");
    programs.load_early(Early::Native).expect("the program of XDP loads");
    println!("{:16} {:>20}", "program", "instructions walked");
    for hook in Hook::ATTACHED {
        println!("{:16} {:>20}", hook.name(), programs.verified_instructions(hook).expect("information"));
    }
    fill(&mut maps);
    let mut cases: Vec<Case> = families().iter().flat_map(cases).collect();
    for case in &mut cases {
        case.check(&programs, &maps);
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            case.measure(&programs);
        }
    }
    println!(
        "\nns for one run, {RUNS} runs in each of {ROUNDS} rounds; \"nothing\" is the frame of another machine:"
    );
    println!("{:16} {:46} {:>7} {:>6} {:>6}", "program", "packet", "median", "least", "most");
    for case in &mut cases {
        case.found.sort_unstable();
        let (least, median, most) = (case.found[0], case.found[ROUNDS / 2], case.found[ROUNDS - 1]);
        println!("{:16} {:46} {median:>7} {least:>6} {most:>6}", case.hook.name(), case.what);
    }
}

fn fill(maps: &mut Maps) {
    let desired = State { tables: tables(), ..State::default() };
    for step in plan(&State::default(), &desired) {
        maps.apply(&step).expect("a write");
    }
    let now = u32::try_from(monotonic_seconds()).expect("the clock");
    for family in families() {
        let flow = Flow {
            last_seen: now,
            started: now,
            state: state::ESTABLISHED,
            owner: owner::CONTAINER,
            ..Flow::zeroed()
        };
        let key = FlowKey {
            local: family.ours.into(),
            remote: family.remote.into(),
            local_port: 40_000,
            remote_port: 443,
            proto: proto::TCP,
            ..FlowKey::zeroed()
        };
        maps.put_flow(&key, &flow).expect("a write");
    }
}

fn cases(family: &Family) -> Vec<Case> {
    let name = |v4: &'static str, v6: &'static str| if family.v6 { v6 } else { v4 };
    let on = |hook, ifindex, what, draft: Draft, to: Mac, from: Mac, reason| Case {
        hook,
        what,
        frame: draft.between(to, from).frame(),
        seen: Seen { ifindex, ..Seen::default() },
        reason,
        found: Vec::new(),
    };
    let outside = Mac { bytes: [2, 9, 9, 9, 9, 9] };
    let uplink = |hook, what, draft, reason| on(hook, UPLINK, what, draft, mac_of(UPLINK), outside, reason);
    let port = |what, draft, reason| {
        on(Hook::PortIngress, PORT_A1, what, draft, mac_of(BRIDGE_A), container_mac(PORT_A1), reason)
    };
    let bridge = |what, draft, reason| {
        on(Hook::BridgeIngress, BRIDGE_A, what, draft, mac_of(BRIDGE_A), container_mac(PORT_A1), reason)
    };
    let (remote, ours) = (family.remote, family.ours);
    let stranger = ip(remote, ours).tcp(50_000, 443, tcp::ACK).sent_to(Mac { bytes: [2, 8, 8, 8, 8, 8] });
    let mut at_port = bridge(
        name("v4 judged at its port already", "v6 judged at its port already"),
        ip(family.a1, remote).tcp(50_000, 443, tcp::ACK),
        Reason::JudgedAtPort,
    );
    at_port.seen.mark = marked(0, Mark::Out, tables().settings.mark_bit);
    vec![
        uplink(Hook::UplinkIngress, name("v4 nothing", "v6 nothing"), stranger, Reason::OtherHost),
        uplink(
            Hook::UplinkXdp,
            name("v4 left to TC: TCP that opens nothing", "v6 left to TC: TCP that opens nothing"),
            ip(remote, ours).tcp(50_000, 8082, tcp::ACK),
            Reason::NotOurs,
        ),
        uplink(
            Hook::UplinkXdp,
            name("v4 drop: port not allowed", "v6 drop: port not allowed"),
            ip(remote, ours).tcp(50_000, 23, tcp::SYN),
            Reason::PortNotAllowed,
        ),
        uplink(
            Hook::UplinkIngress,
            name("v4 accept: allowed published port", "v6 accept: allowed published port"),
            ip(remote, ours).tcp(50_000, 8082, tcp::ACK),
            Reason::AllowRule,
        ),
        uplink(
            Hook::UplinkIngress,
            name("v4 accept: reply of a container's flow", "v6 accept: reply of a container's flow"),
            ip(remote, ours).tcp(443, 40_000, tcp::ACK),
            Reason::Reply,
        ),
        uplink(
            Hook::UplinkIngress,
            name("v4 drop: port not allowed", "v6 drop: port not allowed"),
            ip(remote, ours).tcp(50_000, 23, tcp::SYN),
            Reason::PortNotAllowed,
        ),
        uplink(
            Hook::UplinkEgress,
            name("v4 sent: of a known flow", "v6 sent: of a known flow"),
            ip(ours, remote).tcp(40_000, 443, tcp::ACK),
            Reason::Sent,
        ),
        uplink(
            Hook::UplinkEgress,
            name("v4 sent: answer of an allowed service", "v6 sent: answer of an allowed service"),
            ip(ours, remote).tcp(8082, 50_000, tcp::ACK),
            Reason::Sent,
        ),
        port(
            name("v4 accept: to the outside", "v6 accept: to the outside"),
            ip(family.a1, remote).tcp(50_000, 443, tcp::ACK),
            Reason::Outbound,
        ),
        port(
            name("v4 drop: to another network", "v6 drop: to another network"),
            ip(family.a1, family.b1).tcp(50_000, 443, tcp::SYN),
            Reason::Isolation,
        ),
        at_port,
        bridge(
            name("v4 accept: unmarked, to the host", "v6 accept: unmarked, to the host"),
            ip(family.a1, family.gateway_a).tcp(50_000, 443, tcp::ACK),
            Reason::ToHost,
        ),
        bridge(
            name("v4 drop: unmarked, to another network", "v6 drop: unmarked, to another network"),
            ip(family.a1, family.b1).tcp(50_000, 443, tcp::SYN),
            Reason::Isolation,
        ),
    ]
}

impl Case {
    /// A figure for another decision than the one named would be worse than none.
    fn check(&self, programs: &Programs, maps: &Maps) {
        let count = || maps.counter(self.hook, self.reason).expect("a counter").packets;
        let before = count();
        programs.test_run_of(self.hook, &self.frame, self.seen, 1).expect("a run");
        let counted = u64::from(if self.hook == Hook::UplinkXdp {
            self.reason.is_drop()
        } else {
            self.reason != Reason::OtherHost
        });
        assert_eq!(count() - before, counted, "{} {}", self.hook.name(), self.what);
    }

    fn measure(&mut self, programs: &Programs) {
        let run = programs.test_run_of(self.hook, &self.frame, self.seen, RUNS).expect("a run");
        self.found.push(run.time.as_nanos());
    }
}
