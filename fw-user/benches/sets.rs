//! What sets of a million prefixes take: from the policy file into the maps, in memory, and for each packet.
//!
//! The daemon's own functions, one after the other, on maps that nobody else sees; a packet is run by
//! `BPF_PROG_TEST_RUN` in rounds that go over all cases in turn, and the figures are medians with their spread.

#[path = "support/bare.rs"]
mod bare;
#[path = "../../fw-common/tests/decide/example/mod.rs"]
#[expect(dead_code, reason = "the example's host and packets serve here, its cases do not")]
mod example;
#[path = "../tests/support/namespace.rs"]
mod namespace;
#[path = "support/prefixes.rs"]
mod prefixes;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use bare::{Bare, BarePrograms};
use example::host::{UPLINK, families, mac_of, tables};
use example::packets::ip;
use fw_common::tables::memory::Memory;
use fw_common::tables::{DenyRule, Prefix};
use fw_common::wire::tcp;
use fw_common::{Hook, Mac};
use fw_user::datapath::{Maps, Programs, Seen};
use fw_user::desired::{Labelled, Prepared, SwarmRules, desired_with};
use fw_user::inventory::Inventory;
use fw_user::plan::{State, Step, plan};
use fw_user::policy::Policy;
use nix::time::{ClockId, clock_gettime};

const MANY: usize = 1_000_000;
const ROUNDS: usize = 15;
const RUNS: u32 = 100_000;
/// Sources of which a figure is the mean: a prefix lies deeper in the trie than another.
const SOURCES: usize = 20;

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: needs root (CAP_BPF)");
        return;
    }
    namespace::make(&BTreeSet::new());
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("a file");
    file("mixed.txt", &list(&prefixes::mixed(MANY, true)));
    file("hosts.txt", &list(&prefixes::hosts(MANY)));
    for (what, rules) in [
        ("no sets", String::new()),
        ("allow: a million prefixes of mixed lengths", allow("mixed.txt")),
        ("allow: a million hosts", allow("hosts.txt")),
        ("deny: a million prefixes of mixed lengths", deny("mixed.txt")),
        ("deny: a million hosts", deny("hosts.txt")),
    ] {
        file("policy.toml", &rules);
        whole_way(what, &directory.path().join("policy.toml"));
    }
}

fn allow(file: &str) -> String {
    format!(
        "[sets]\nmany = {{ file = \"{file}\" }}\n[[allow]]\nname = \"a\"\nproto = \"tcp\"\nports = [22]\nfrom = [\"many\"]\n"
    )
}

/// As a file of the policy.
fn list(prefixes: &BTreeSet<(IpAddr, u8)>) -> String {
    prefixes.iter().fold(String::new(), |mut text, (address, length)| {
        writeln!(text, "{address}/{length}").expect("a string");
        text
    })
}

fn deny(file: &str) -> String {
    format!("[sets]\nmany = {{ file = \"{file}\" }}\n[[deny]]\nname = \"d\"\nfrom = [\"many\"]\n")
}

/// From the file into force, and what a pass takes when nothing has changed.
fn whole_way(what: &str, file: &Path) {
    println!("\n{what}");
    let (programs, mut maps) = Programs::load(None, &[]).expect("the programs load");
    let begun = Stopwatch::start();
    let policy = timed("read and parse the policy", || Policy::read(file).expect("a policy"));
    let inventory = Inventory::default();
    let empty = State::default();
    let prepared = timed("prepare its tables", || Prepared::new(&policy, &empty).expect("it fits"));
    let wanted = timed("desired", || {
        desired_with(&policy, &inventory, &empty, &prepared, Labelled::default()).expect("it fits").state
    });
    let steps = timed("plan", || plan(&empty, &wanted));
    timed(&format!("write {} entries", steps.len()), || {
        maps.apply_all(&steps).expect("written");
    });
    timed("read back what was written", || assert!(maps.first_not_held(&steps).expect("read").is_none()));
    begun.say("from the file into force");
    let state = timed("read all maps, as a start does", || maps.read().expect("read"));
    assert!(state.tables.sources == wanted.tables.sources && state.tables.denied == wanted.tables.denied);
    drop(state);
    timed("an idle pass: read the maps, desired, plan", || {
        let current = maps.read_around(&wanted.tables).expect("read");
        assert!(prepared.is_of(&current, &Labelled::default(), &SwarmRules::default()));
        let again = desired_with(&policy, &inventory, &current, &prepared, Labelled::default())
            .expect("it fits")
            .state;
        assert_eq!(plan(&current, &again), []);
    });
    println!("  {:46} {:>9} MB", "memory of the daemon (RSS)", resident());
    println!("  {:46} {:>9} MB", "memory of the maps of sets (fdinfo)", map_memory());
    packets(&programs, &mut maps, &wanted);
}

const ANYBODY: &str = "a port for anybody, from the same sources";

/// Which program runs.
enum By {
    Fw,
    Bare(Bare),
}

/// One thing to measure.
struct Case {
    by: By,
    what: &'static str,
    frames: Vec<Vec<u8>>,
    /// Nanoseconds of a run, round by round.
    found: Vec<f64>,
}

impl Case {
    fn new(by: By, what: &'static str, frames: Vec<Vec<u8>>) -> Self {
        Self { by, what, frames, found: Vec::new() }
    }
}

/// Prints the median and the spread.
fn say(what: &str, found: &[f64]) {
    let mut found = found.to_vec();
    found.sort_by(f64::total_cmp);
    let (least, median, most) = (found[0], found[ROUNDS / 2], found[ROUNDS - 1]);
    println!("  {what:46} {median:>9.0} ns  ({least:.0} to {most:.0})");
}

/// What a verdict takes with and without a question to the sets, by turns, on the same maps.
fn packets(programs: &Programs, maps: &mut Maps, before: &State) {
    let (family, held) = (families()[0], &before.tables);
    let mut here = Memory { sources: held.sources.clone(), denied: held.denied.clone(), ..tables() };
    here.settings.deny = held.settings.deny;
    here.settings.source_prefixes = held.settings.source_prefixes;
    here.ports.extend(held.ports.clone());
    let here = State { tables: here, ..State::default() };
    maps.apply_all(&plan(before, &here)).expect("written");

    // A source out of each part of the table, by prefixes and by hosts; nobody's if there is none.
    let inside = |single: bool| -> Vec<IpAddr> {
        let keys = || held.sources.keys().chain(held.denied.keys());
        let fitting = |prefix: &&Prefix| prefix.address.is_v4() && (prefix.bits == 128) == single;
        let many = keys().filter(fitting).count();
        keys().filter(fitting).step_by(many / SOURCES + 1).map(|prefix| prefix.address.into()).collect()
    };
    let outside = vec![family.remote];
    let frames = |sources: &[IpAddr], port| -> Vec<Vec<u8>> {
        let frame = |source: &IpAddr| {
            let draft = ip(*source, family.ours).tcp(50_000, port, tcp::SYN);
            draft.between(mac_of(UPLINK), Mac { bytes: [2, 9, 9, 9, 9, 9] }).frame()
        };
        sources.iter().map(frame).collect()
    };
    let is_prefix = |prefix: &&Prefix| prefix.bits != 128;
    let bare = BarePrograms::load(held.sources.keys().chain(held.denied.keys()).filter(is_prefix));
    let mut cases =
        vec![Case::new(By::Fw, "a port for anybody, from nobody's source", frames(&outside, 443))];
    for (single, of_allow, of_deny) in [
        (false, "a port for the set, from inside by a prefix", "from a denied prefix"),
        (true, "a port for the set, from inside as a host", "from a denied host"),
    ] {
        let (sources, allow) = (inside(single), !held.sources.is_empty());
        if sources.is_empty() {
            continue;
        }
        if allow {
            cases.push(Case::new(By::Fw, ANYBODY, frames(&sources, 443)));
        }
        cases.push(Case::new(By::Fw, if allow { of_allow } else { of_deny }, frames(&sources, 22)));
        if !single {
            cases.push(Case::new(By::Bare(Bare::Drop), "a bare program that drops", frames(&sources, 22)));
            cases.push(Case::new(By::Bare(Bare::Prefix), "the same, asking a table", frames(&sources, 22)));
        }
    }
    for _ in 0..ROUNDS {
        for case in &mut cases {
            let runs = RUNS / case.frames.len() as u32;
            let time = |frame: &Vec<u8>| {
                let seen = Seen { ifindex: UPLINK, ..Seen::default() };
                match case.by {
                    By::Fw => {
                        programs.test_run_of(Hook::UplinkIngress, frame, seen, runs).expect("a run").time
                    }
                    By::Bare(program) => bare.run(program, frame, runs),
                }
            };
            let sum: Duration = case.frames.iter().map(time).sum();
            case.found.push(sum.as_secs_f64() * 1e9 / f64::from(RUNS / runs));
        }
    }
    for case in &cases {
        say(case.what, &case.found);
    }
    // What asking costs: the difference of two that do the same but for that, round by round.
    for pair in cases.chunk_by(|_, next| next.what != ANYBODY) {
        let [without, with, bare_without, bare_with] = pair else { continue };
        let asking = |without: &Case, with: &Case| -> Vec<f64> {
            without.found.iter().zip(&with.found).map(|(without, with)| with - without).collect()
        };
        let (fw, bare) = (asking(without, with), asking(bare_without, bare_with));
        say("asking for a prefix, fw", &fw);
        say("asking for a prefix, bare", &bare);
        let mut ratios: Vec<f64> = fw.iter().zip(&bare).map(|(fw, bare)| fw / bare).collect();
        ratios.sort_by(f64::total_cmp);
        println!(
            "  {:46} {:>9.2}     ({:.2} to {:.2})",
            "fw / bare",
            ratios[ROUNDS / 2],
            ratios[0],
            ratios[ROUNDS - 1]
        );
    }

    // A ban: one denied address more.
    let mut banned = here.clone();
    banned.tables.denied.insert(Prefix::new(family.remote.into(), 128), DenyRule { rule: 1 });
    banned.tables.settings.deny = 1;
    let steps = plan(&here, &banned);
    let writes = steps.iter().filter(|step| !matches!(step, Step::Settings(_))).count();
    let begun = Instant::now();
    maps.apply_all(&steps).expect("written");
    println!(
        "  {:46} {:>9.1} us, {writes} entry written",
        "a ban takes effect",
        begun.elapsed().as_secs_f64() * 1e6
    );
}

/// Does it, and says what it took: by the clock, and of a CPU, which other work on the machine does not lengthen.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let begun = Stopwatch::start();
    let done = work();
    begun.say(what);
    done
}

struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu_time() }
    }

    fn say(&self, what: &str) {
        let (wall, cpu) = (self.wall.elapsed(), cpu_time().saturating_sub(self.cpu));
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        println!("  {what:46} {:>9.1} ms, {:>9.1} ms of CPU", milliseconds(wall), milliseconds(cpu));
    }
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("a clock").into()
}

/// `VmRSS` of this process, in MB.
fn resident() -> u64 {
    number_in(&fs::read_to_string("/proc/self/status").expect("proc"), "VmRSS:") / 1024
}

/// `memlock` of the four maps that hold sets, by their kinds and sizes of keys and values, in MB.
fn map_memory() -> u64 {
    let files = fs::read_dir("/proc/self/fdinfo").expect("proc");
    let infos = files.filter_map(|file| fs::read_to_string(file.ok()?.path()).ok());
    let of_sets = |info: &String| {
        let shape =
            ["map_type:", "key_size:", "value_size:", "max_entries:"].map(|field| number_in(info, field));
        matches!(shape, [1, 16, 4 | 8, 1_048_576] | [11, 20, 4 | 8, 1_048_576])
    };
    infos.filter(of_sets).map(|info| number_in(&info, "memlock:")).sum::<u64>() >> 20
}

fn number_in(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
