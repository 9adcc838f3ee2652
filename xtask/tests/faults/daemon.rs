//! Faults of the daemon itself.

use std::fs;
use std::time::{Duration, Instant};

use xtask::lab::{OUTSIDE, wait};

use crate::ground::POLICY;
use crate::story::{Shown, Story};

pub(crate) fn rows(story: &mut Story<'_>) {
    story.row("-", "no fault", |_| {
        wait::pass(Duration::from_secs(2));
        Shown::default()
    });
    story.row("Z01", "SIGKILL, and a new daemon", |story| {
        story.daemon.take().expect("fw runs").kill().expect("SIGKILL");
        let told = story.tells("no daemon is running");
        wait::pass(DOWN);
        let begun = Instant::now();
        story.run();
        Shown { told: Some(told), healed: Some(begun.elapsed()) }
    });
    story.row("Z02", "SIGSTOP; containers come meanwhile", |story| {
        story.signal("STOP");
        let told = story.tells("the daemon is halted");
        let ground = story.ground;
        let newcomers: Vec<_> =
            (0..NEWCOMERS).map(|n| ground.newcomer(&format!("halted{n}"), 8100 + n)).collect();
        for (container, _) in &newcomers {
            let to_b1 = (ground.b1.ip().expect("an address"), 80).into();
            assert!(!container.place.tcp(to_b1).expect("a probe").reached(), "{} -> b1", container.name);
            assert!(container.place.tcp((OUTSIDE, 443).into()).expect("a probe").reached(), "as with Docker");
        }
        story.signal("CONT");
        let healed = story.knows(&newcomers[0].0, 8100);
        for (container, _) in &newcomers {
            ground.lab.docker(&["rm", "-f", &container.name]).expect("docker");
        }
        Shown { told: Some(told), healed: Some(healed) }
    });
    story.row("Z17", "the policy file is gone, a directory, not UTF-8, cut short", |story| {
        let host = story.ground.lab.host();
        let file = "/run/lab/policy.toml";
        host.script(&format!("cp {file} {file}.kept")).expect("a copy");
        let damages = [
            format!("rm {file}"),
            format!("rm -f {file}; mkdir {file}"),
            format!("rmdir {file}; printf '[[allow]]\\nname = \"\\377\"' >{file}"),
            format!("head -c 40 {file}.kept >{file}"),
        ];
        for damage in damages {
            let before = story.ground.lab.fw_log().matches("bad policy file").count();
            host.script(&damage).expect("damage");
            story.signal("HUP");
            story.until("the daemon says so", || {
                story.ground.lab.fw_log().matches("bad policy file").count() > before
            });
        }
        host.script(&format!("mv {file}.kept {file}")).expect("the policy");
        story.signal("HUP");
        Shown::default()
    });
    story.row("Z21", "no more file descriptors, then enough", |story| {
        let host = story.ground.lab.host();
        let limit = |count: u32| {
            host.script(&format!("prlimit --pid $(cat /run/lab/fw.pid) --nofile={count}:4096"))
                .expect("prlimit");
        };
        limit(8);
        story.signal("HUP");
        let told = story.tells("the last pass was not complete");
        let (newcomer, _server) = story.ground.newcomer("starved", 8100);
        limit(4096);
        let healed = story.knows(&newcomer, 8100);
        story.ground.lab.docker(&["rm", "-f", &newcomer.name]).expect("docker");
        Shown { told: Some(told), healed: Some(healed) }
    });
    starved_of_memory(story);
}

/// A unit with `MemoryMax=`: the daemon asks for more than its cgroup may have, and the kernel kills it.
fn starved_of_memory(story: &mut Story<'_>) {
    let lab = &story.ground.lab;
    // The hierarchy of cgroup v1, then v2; what is charged already stays where it was charged.
    let confine = format!(
        "for memory in /sys/fs/cgroup/memory /sys/fs/cgroup; do
           group=$memory/{}/fw
           mkdir -p $group 2>/dev/null || continue
           for limit in memory.limit_in_bytes memory.max; do
             [ -w $group/$limit ] && echo {LIMIT} >$group/$limit && cat /run/lab/fw.pid >$group/cgroup.procs && exit 0
           done
         done
         exit 1",
        lab.name()
    );
    let what = "the daemon asks for more memory than its cgroup has, and is killed; a new one";
    if lab.host().script(&confine).is_err() {
        return story.skip("Z21", "no cgroup with a limit of memory can be made here");
    }
    story.row("Z21", what, |story| {
        let lab = &story.ground.lab;
        let prefixes = (0..PREFIXES).map(|n| format!("11.{}.{}.{}\n", n >> 16, n >> 8 & 255, n & 255));
        fs::write(lab.path("/run/lab/many.txt"), prefixes.collect::<String>()).expect("a file");
        fs::write(lab.path("/run/lab/policy.toml"), format!("{POLICY}{MANY}")).expect("a policy");
        story.signal("HUP");
        let mut daemon = story.daemon.take().expect("fw runs");
        assert!(!daemon.ends().expect("its end"), "it ended by itself");
        let killed = format!(
            "cat /sys/fs/cgroup/memory/{0}/fw/memory.oom_control /sys/fs/cgroup/{0}/fw/memory.events 2>/dev/null || true",
            lab.name()
        );
        let killed = lab.host().script(&killed).expect("what the kernel counts");
        assert!(killed.contains("oom_kill 1"), "the kernel killed it: {killed}");
        let told = story.tells("no daemon is running");
        wait::pass(DOWN);
        let begun = Instant::now();
        story.run();
        Shown { told: Some(told), healed: Some(begun.elapsed()) }
    });
}

/// What the daemon may have besides what it had, in bytes; and more prefixes than go into that.
const LIMIT: u32 = 16 << 20;
const PREFIXES: u32 = 500_000;
const MANY: &str = r#"
[sets]
many = { file = "many.txt" }

[[deny]]
name = "many"
from = ["many"]
"#;
const DOWN: Duration = Duration::from_secs(3);
const NEWCOMERS: u16 = 2;
