//! The loaded programs against `decide`: the same packets, the same tables, the same action, mark, reason, rule and
//! all that they leave behind. Needs root; runs in a network namespace of its own that ends with its thread.
//!
//! Every example, whatever once differed, and random packets over random tables; `cargo xtask equivalence` runs more
//! of the latter.

#[path = "../../fw-common/tests/decide/example/mod.rs"]
mod example;
#[path = "equivalence/kernel.rs"]
mod kernel;
#[path = "support/namespace.rs"]
mod namespace;
#[path = "../../fw-common/tests/random/mod.rs"]
#[expect(dead_code, reason = "the fuzzer's way to choose")]
mod random;
#[path = "equivalence/record.rs"]
mod record;
#[path = "equivalence/shrink.rs"]
mod shrink;
#[path = "equivalence/traffic.rs"]
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;
use std::{env, fs};

use example::packets::ip;
use example::{Case, Scene, cases, host};
use fw_common::flow::counted;
use fw_common::{Address, Hook, Reason};
use kernel::{Batch, Difference, Judged, Kernel};
use random::{Random, world};
use traffic::{Sent, Traffic};

/// Random packets and their seed, unless `FW_EQUIVALENCE_PACKETS` and `FW_EQUIVALENCE_SEED` say otherwise.
const PACKETS: usize = 100_000;
const SEED: usize = 0x5eed;

/// Packets that meet the same tables.
const BATCH: usize = 2000;

/// What a program may cost the verifier: the kernel gives up at a million instructions, and other kernels walk more.
const BUDGET: u32 = 300_000;

#[test]
fn programs_stay_within_their_budget() {
    with_kernel(|kernel, _| {
        println!("{:16} {:>20} of {BUDGET}", "program", "instructions walked");
        for hook in Hook::ATTACHED {
            let walked = kernel.walked(hook);
            println!("{:16} {walked:>20}", hook.name());
            assert!(walked <= BUDGET, "{} is over its budget", hook.name());
        }
    });
}

#[test]
fn every_example_is_decided_alike() {
    with_kernel(|kernel, cases| {
        let mut compared = 0;
        for Case { scene, verdict, flow, inbound } in cases.iter().filter(|case| is_attached(case.scene.hook))
        {
            for observe in [0, 1] {
                let mut batch = Batch { tables: scene.tables.clone(), packets: vec![Sent::of(scene)] };
                batch.tables.settings.observe = observe;
                let mut again = false;
                let found = loop {
                    if observe == 1 {
                        kernel.take_observed();
                    }
                    match judged(kernel, &batch, &scene.name)[0] {
                        Judged::BetweenTicks => {}
                        // A second may begin between the tables and the packet, and make an entry too old: not twice.
                        Judged::Alike(found) if found != *verdict && !again => again = true,
                        found => break found,
                    }
                };
                // What a test run cannot be told of (tags kept aside) makes another scene, compared all the same.
                if !is_as_told(scene) || found == Judged::Refused {
                    continue;
                }
                assert_eq!(found, Judged::Alike(*verdict), "{}", scene.name);
                compared += 1;
                let lets_pass = observe == 1 && verdict.reason.is_drop() && scene.hook != Hook::UplinkXdp;
                let expected = lets_pass.then_some((scene.hook as u8, verdict.reason as u8, verdict.rule, 1));
                let seen = if observe == 1 { kernel.take_observed() } else { BTreeMap::new() };
                let seen: Vec<_> =
                    seen.iter().map(|(key, seen)| (key.hook, key.reason, key.rule, seen.packets)).collect();
                assert_eq!(seen, Vec::from_iter(expected), "observing {}", scene.name);
                for (flow, flows) in [(flow, kernel.flows()), (inbound, kernel.inbound())] {
                    let Some((key, expected)) = flow else { continue };
                    let found = flows.get(key).map(|flow| (flow.state, flow.owner));
                    assert_eq!(found, *expected, "flow of {}", scene.name);
                }
            }
        }
        println!("{compared} examples alike");
    });
}

#[test]
fn what_once_differed_is_decided_alike() {
    with_kernel(|kernel, _| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/equivalence/found");
        let files = fs::read_dir(&folder).expect("the folder of what was found");
        for file in files.map(|file| file.expect("a file").path()) {
            let name = file.display().to_string();
            let text = fs::read_to_string(&file).expect("a text");
            let batch = record::read(&text).unwrap_or_else(|error| panic!("{name}: cannot read {error}"));
            assert!(!batch.packets.is_empty(), "{name}: no packet");
            judged(kernel, &batch, &name);
        }
    });
}

#[test]
fn random_packets_over_random_tables_are_decided_alike() {
    with_kernel(|kernel, cases| {
        let (packets, seed) =
            (number("FW_EQUIVALENCE_PACKETS", PACKETS), number("FW_EQUIVALENCE_SEED", SEED));
        println!("{packets} packets, seed {seed}");
        let (traffic, started) = (Traffic::new(cases), Instant::now());
        let mut tally = Tally::default();
        for at in 0..packets.div_ceil(BATCH) {
            // Each batch can be made again without those before it.
            let mut random = Random::new((seed as u64) << 32 | at as u64);
            let tables = world::tables(&mut random);
            let packets = (0..BATCH).map(|_| traffic.packet(&tables, &mut random)).collect();
            let batch = Batch { tables, packets };
            let all = judged(kernel, &batch, &format!("batch {at} of seed {seed}"));
            tally.add(&batch, &all);
        }
        let rate = tally.packets as u128 * 1000 / started.elapsed().as_millis().max(1);
        println!("{tally}{rate} packets a second");
        tally.reaches_everything();
    });
}

/// Random tables have budgets of which the kernel draws as the host does; here it draws as it likes.
#[test]
fn a_budget_is_kept_whatever_is_drawn() {
    const BUDGET: u32 = 64;
    with_kernel(|kernel, _| {
        for family in host::families() {
            let leaves = |ingress_ifindex, local_port, remote_port| {
                let packet = ip(family.ours, family.remote).udp(local_port, remote_port, b"?");
                let frame = packet.between(host::container_mac(0), host::mac_of(host::UPLINK)).frame();
                Sent { hook: Hook::UplinkEgress, ifindex: host::UPLINK, ingress_ifindex, mark: 0, frame }
            };
            let flood = (1..=2000).map(|port| leaves(host::BRIDGE_A, 31_000, port));
            let packets = [leaves(0, 30_000, 53)].into_iter().chain(flood).collect();
            let mut tables = host::tables();
            tables.settings.flow_budget = BUDGET;
            kernel.run(&Batch { tables, packets });
            let flows = kernel.flows();
            let of = |number| flows.values().filter(|flow| flow.container == number).count();
            let counted = of(counted::UNKNOWN);
            assert!(counted <= BUDGET as usize && counted > BUDGET as usize / 2, "{counted} of {BUDGET}");
            assert_eq!((of(0), flows.len()), (1, counted + 1), "nobody else's flow goes");
        }
    });
}

/// Judges a batch; if the kernel and `decide` differ, shrinks it and tells all about it.
fn judged(kernel: &mut Kernel, batch: &Batch, name: &str) -> Vec<Judged> {
    let Difference { at, what } = match kernel.judge(batch) {
        Ok(all) => return all,
        Err(difference) => difference,
    };
    let mut smaller = batch.clone();
    smaller.packets.truncate(at + 1);
    let smallest = shrink::shrink(kernel, smaller);
    let shown = kernel.judge(&smallest).err().map_or("(seen once)".to_owned(), |difference| difference.what);
    let commented = shown.replace('\n', "\n# ");
    panic!(
        "the kernel and decide differ: {name}, packet {at}: {what}\n\nThe smallest that shows it; put it into a file \
         in fw-user/tests/equivalence/found:\n\n# {commented}\n{}",
        record::write(&smallest)
    );
}

/// What was compared.
#[derive(Default)]
struct Tally {
    packets: usize,
    refused: usize,
    between_ticks: usize,
    reasons: BTreeMap<Reason, BTreeMap<Hook, usize>>,
}

/// Reasons that no test run can reach, and why.
const OUT_OF_REACH: [(Reason, &str); 0] = [];

impl Tally {
    fn add(&mut self, batch: &Batch, all: &[Judged]) {
        for (sent, judged) in batch.packets.iter().zip(all) {
            self.packets += 1;
            match judged {
                Judged::Refused => self.refused += 1,
                Judged::BetweenTicks => self.between_ticks += 1,
                Judged::Alike(verdict) => {
                    *self.reasons.entry(verdict.reason).or_default().entry(sent.hook).or_default() += 1;
                }
            }
        }
    }

    fn reaches_everything(&self) {
        let reachable =
            Reason::ALL.iter().filter(|reason| OUT_OF_REACH.iter().all(|(out, _)| out != *reason));
        let missed: Vec<_> = reachable.filter(|reason| !self.reasons.contains_key(reason)).collect();
        assert!(missed.is_empty(), "no packet reached {missed:?}");
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { packets, refused, between_ticks, reasons } = self;
        let alike = packets - refused - between_ticks;
        writeln!(
            f,
            "{alike} packets alike; {refused} refused by the kernel's test run, which takes no cut IP header;"
        )?;
        writeln!(f, "{between_ticks} not compared, for the clock went on meanwhile")?;
        for (reason, hooks) in reasons {
            write!(f, "  {:20}", reason.name())?;
            for (hook, count) in hooks {
                write!(f, " {} {count}", hook.name())?;
            }
            writeln!(f)?;
        }
        OUT_OF_REACH
            .iter()
            .try_for_each(|(reason, why)| writeln!(f, "  {:20} out of reach: {why}", reason.name()))
    }
}

/// Whether a test run can be told all that the scene says.
fn is_as_told(scene: &Scene) -> bool {
    let (arrival, told) = (scene.arrival, kernel::arrival(&Sent::of(scene)));
    (arrival.audience, arrival.ethertype, arrival.vlan, arrival.owner)
        == (told.audience, told.ethertype, told.vlan, told.owner)
}

fn is_attached(hook: Hook) -> bool {
    Hook::ATTACHED.contains(&hook)
}

/// Runs `work` with the programs loaded, in a network namespace of its own; says aloud if that cannot be.
fn with_kernel(work: impl FnOnce(&mut Kernel, &[Case]) + Send) {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root (CAP_BPF)");
        return;
    }
    let tested = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let cases = cases();
            let local: BTreeSet<Address> =
                cases.iter().flat_map(|case| case.scene.tables.routed_local.clone()).collect();
            namespace::make(&local);
            work(&mut Kernel::load(local), &cases);
        });
        inside.join()
    });
    if let Err(panic) = tested {
        std::panic::resume_unwind(panic);
    }
}

fn number(variable: &str, otherwise: usize) -> usize {
    let given = env::var(variable);
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}
