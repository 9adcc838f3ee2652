//! Faults of the daemon itself.

use std::time::{Duration, Instant};

use xtask::lab::{OUTSIDE, wait};

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
}

const DOWN: Duration = Duration::from_secs(3);
const NEWCOMERS: u16 = 2;
