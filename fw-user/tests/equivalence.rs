//! The loaded programs against `decide`: the same packets, the same tables, the same action, mark, reason, rule and
//! flows. Needs root; runs in a network namespace of its own that ends with its thread.

#[path = "../../fw-common/tests/decide/example/mod.rs"]
mod example;
#[path = "support/namespace.rs"]
mod namespace;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytemuck::Zeroable as _;
use example::host::{NOW, mac_of};
use example::{Case, Scene, cases};
use fw_common::decide::{Workspace, marked};
use fw_common::flow::{Flow, FlowKey};
use fw_common::{Action, Address, Hook, Mark, Reason, Verdict, decide};
use fw_user::datapath::{Maps, Programs, Seen, TestRun};
use fw_user::plan::{State, plan};
use nix::time::{ClockId, clock_gettime};

/// Mutated packets for each hook, unless `FW_EQUIVALENCE_PACKETS` says otherwise.
const MUTATIONS: usize = 3000;

#[test]
fn the_programs_decide_as_decide_does() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root (CAP_BPF)");
        return;
    }
    let tested = std::thread::spawn(|| {
        let cases = cases();
        let local: BTreeSet<Address> =
            cases.iter().flat_map(|case| case.scene.tables.routed_local.clone()).collect();
        namespace::make(&local);
        let mut kernel = Kernel::load(local);
        kernel.examples(&cases);
        kernel.mutations(&cases);
        println!("{} packets alike, {} refused by the kernel's test run", kernel.alike, kernel.refused);
    });
    if let Err(panic) = tested.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The loaded programs, and what their maps hold.
struct Kernel {
    programs: Programs,
    maps: Maps,
    state: State,
    flows: BTreeMap<FlowKey, Flow>,
    local: BTreeSet<Address>,
    alike: usize,
    refused: usize,
}

/// What came of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    action: i32,
    mark: u32,
    /// Which counters moved, and by how much.
    reasons: BTreeMap<(Hook, u8), u64>,
    /// By how much the counter of the rule moved.
    rule: u64,
    flows: BTreeMap<FlowKey, Flow>,
}

impl Kernel {
    fn load(local: BTreeSet<Address>) -> Self {
        let (programs, maps) = Programs::load(None).expect("the programs load");
        let (state, flows) = (State::default(), BTreeMap::new());
        Self { programs, maps, state, flows, local, alike: 0, refused: 0 }
    }

    /// Every example, enforcing and observing.
    fn examples(&mut self, cases: &[Case]) {
        let attached = |case: &&Case| Hook::ATTACHED.contains(&case.scene.hook);
        for Case { scene, verdict, flow } in cases.iter().filter(attached) {
            for observe in [0, 1] {
                let mut scene = scene.clone();
                scene.tables.settings.observe = observe;
                let found = self.compare(&scene);
                // What a test run cannot be told of (tags kept aside) makes another scene, compared all the same.
                if !is_as_told(&scene) || found.is_none() {
                    continue;
                }
                assert_eq!(found, Some(*verdict), "{}", scene.name);
                if let Some((key, expected)) = flow {
                    let found = self.flows.get(key).map(|flow| (flow.state, flow.owner));
                    assert_eq!(found, *expected, "flow of {}", scene.name);
                }
            }
        }
    }

    /// Examples with some of their bytes changed.
    fn mutations(&mut self, cases: &[Case]) {
        let packets = std::env::var("FW_EQUIVALENCE_PACKETS");
        let packets =
            packets.map_or(MUTATIONS, |count| count.parse().expect("FW_EQUIVALENCE_PACKETS is a number"));
        let mut random = Random(0x5eed);
        for hook in Hook::ATTACHED {
            let scenes: Vec<&Scene> =
                cases.iter().map(|case| &case.scene).filter(|scene| scene.hook == hook).collect();
            for _ in 0..packets {
                let mut scene = scenes[random.below(scenes.len())].clone();
                random.mutate(&mut scene.frame);
                self.compare(&scene);
            }
        }
    }

    /// Runs a scene in the kernel and here; both must agree. The verdict, unless the kernel refuses such frames.
    fn compare(&mut self, scene: &Scene) -> Option<Verdict> {
        // Both must have seen the same second.
        let (now, verdict, expected, found) = loop {
            let now = seconds();
            let told = self.told(scene, now);
            self.write(&told);
            let (verdict, expected) = here(&told);
            let found = self.run(&told, verdict.rule);
            if seconds() == now {
                break (now, verdict, expected, found);
            }
        };
        let Some(found) = found else {
            self.refused += 1;
            return None;
        };
        assert_eq!(
            found,
            expected,
            "the kernel (left) and decide (right) differ in second {now}\n{}: {}\nframe {}\ndecide: {verdict:?}",
            scene.hook.name(),
            scene.name,
            hex(&scene.frame),
        );
        self.alike += 1;
        Some(verdict)
    }

    /// The scene as the kernel will see it in this second.
    fn told(&self, scene: &Scene, now: u32) -> Scene {
        let mut told = scene.clone();
        told.arrival = example::arrival(scene.arrival.ifindex, mac_of(scene.arrival.ifindex), &scene.frame);
        told.arrival.mark = scene.arrival.mark;
        told.arrival.ingress_ifindex = scene.arrival.ingress_ifindex;
        told.tables.routed_local.clone_from(&self.local);
        told.tables.now = now;
        for flow in told.tables.flows.borrow_mut().values_mut() {
            flow.last_seen = now.wrapping_sub(NOW - flow.last_seen);
            flow.started = now.wrapping_sub(NOW - flow.started);
        }
        told
    }

    /// Brings the maps to the scene's tables.
    fn write(&mut self, scene: &Scene) {
        let desired = State { tables: scene.tables.clone(), ..State::default() };
        for step in plan(&self.state, &desired) {
            self.maps.apply(&step).expect("a map can be written");
        }
        self.state = desired;
        for key in self.flows.keys() {
            self.maps.remove_flow(key).expect("a flow can be removed");
        }
        for (key, flow) in scene.tables.flows.borrow().iter() {
            self.maps.put_flow(key, flow).expect("a flow can be written");
        }
        self.flows.clone_from(&scene.tables.flows.borrow());
    }

    /// Runs the program; `None` if the kernel refuses to run any on such a frame.
    fn run(&mut self, scene: &Scene, rule: u32) -> Option<Outcome> {
        let seen = Seen {
            ifindex: scene.arrival.ifindex,
            ingress_ifindex: scene.arrival.ingress_ifindex,
            mark: scene.arrival.mark,
        };
        let before = (self.counted(), self.maps.rule(rule).expect("a rule can be read").packets);
        let result = self.programs.test_run_of(scene.hook, &scene.frame, seen, 1);
        let TestRun { action, mark, .. } = match result {
            Ok(run) => run,
            Err(_) if is_refused(&scene.frame) => return None,
            Err(error) => panic!("{}: {error:?}\nframe {}", scene.name, hex(&scene.frame)),
        };
        let after = (self.counted(), self.maps.rule(rule).expect("a rule can be read").packets);
        let reasons = after.0.into_iter().filter_map(|(key, count)| {
            let moved = count - before.0.get(&key).copied().unwrap_or(0);
            (moved != 0).then_some((key, moved))
        });
        let reasons = reasons.collect();
        self.flows = self.maps.flows().expect("flows can be read");
        Some(Outcome { action, mark, reasons, rule: after.1 - before.1, flows: self.flows.clone() })
    }

    fn counted(&self) -> BTreeMap<(Hook, u8), u64> {
        let counters = self.maps.counters().expect("counters can be read");
        counters.into_iter().map(|((hook, reason), count)| ((hook, reason as u8), count.packets)).collect()
    }
}

/// What must come of the scene in the kernel, according to `decide`.
fn here(scene: &Scene) -> (Verdict, Outcome) {
    const NEXT: i32 = -1;
    const DROP: i32 = 2;
    let Scene { hook, arrival, frame, tables, .. } = scene;
    let tables = tables.clone();
    let verdict = decide(*hook, arrival, &frame[..], &tables, &mut Workspace::zeroed());
    let observing = tables.settings.observe != 0;
    let action = if verdict.action == Action::Drop && !observing { DROP } else { NEXT };
    let mark = match hook {
        Hook::UplinkIngress | Hook::PortIngress => {
            let field = if observing { Mark::None } else { verdict.mark };
            marked(arrival.mark, field, tables.settings.mark_bit)
        }
        _ => arrival.mark,
    };
    let counted = verdict.reason != Reason::OtherHost;
    let reasons = counted.then_some(((*hook, verdict.reason as u8), 1)).into_iter().collect();
    let rule = u64::from(verdict.rule != 0);
    (verdict, Outcome { action, mark, reasons, rule, flows: tables.flows.into_inner() })
}

/// Whether a test run can be told all that the scene says.
fn is_as_told(scene: &Scene) -> bool {
    let arrival = scene.arrival;
    let told = example::arrival(arrival.ifindex, mac_of(arrival.ifindex), &scene.frame);
    (arrival.audience, arrival.ethertype, arrival.vlan) == (told.audience, told.ethertype, told.vlan)
}

/// Frames on which the kernel runs no program: without a byte behind the Ethernet header, or with an IP header that is
/// cut short (`bpf_prog_test_run_skb`). They never reach a hook of a real device either.
fn is_refused(frame: &[u8]) -> bool {
    let least = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => 15,
    };
    frame.len() < least
}

/// Seconds on the clock that the programs read.
fn seconds() -> u32 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("the clock can be read");
    u32::try_from(time.tv_sec()).expect("a machine that runs for less than a century")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string");
        text
    })
}

/// The same numbers in every run (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Changes up to four bytes, mostly of headers; now and then cuts or lengthens the frame.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        const TELLING: [u8; 16] = [0, 1, 4, 5, 6, 8, 17, 43, 44, 58, 60, 0x45, 0x46, 0x60, 0x80, 0xff];
        match self.below(8) {
            0 => frame.truncate(self.below(frame.len() + 1)),
            1 => frame.resize(frame.len() + self.below(60), 0),
            _ => {}
        }
        for _ in 0..=self.below(4) {
            let reach = if self.below(4) == 0 { frame.len() } else { frame.len().min(80) };
            // Most bytes of the Ethernet header only make the frame somebody else's.
            let from = if self.below(8) == 0 { 0 } else { reach.min(12) };
            if reach == from {
                return;
            }
            let at = from + self.below(reach - from);
            frame[at] = match self.below(3) {
                0 => frame[at] ^ 1 << self.below(8),
                1 => TELLING[self.below(TELLING.len())],
                _ => self.next() as u8,
            };
        }
    }
}
