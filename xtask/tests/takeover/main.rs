//! A live host is taken over without cutting it, and handed back; what a change lets be no more is cut, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use xtask::lab::wait;

mod changes;
mod ground;
mod talks;

use ground::{Ground, POLICY};
use talks::{Lap, Opening, PATIENCE, Talks};

/// Z29: every kind of connection goes on, whether or not the policy would let it in anew.
#[test]
fn a_live_host_is_taken_over_and_handed_back() {
    let Some(ground) = Ground::start("a_live_host_is_taken_over_and_handed_back") else { return };
    let mut opening = Opening::default();
    for _ in 0..rounds() {
        for quiet in [false, true] {
            opening.quiet = quiet;
            ground.open_all(&mut opening);
        }
    }
    let talks = opening.begin();
    let before = ground.lab.rules().expect("the rules");
    let mut table = Table::default();
    let stock = Duration::from_secs(3);
    wait::pass(stock);
    table.column("stock Docker", &talks);
    // Whoever says nothing while the hooks go on is known by conntrack alone.
    talks.hush(true);
    let daemon = ground.lab.fw_run(POLICY).expect("fw");
    talks.hush(false);
    table.column("taken over", &talks);
    wait::pass(stock);
    table.column("under fw", &talks);
    daemon.terminate().expect("SIGTERM");
    talks.hush(true);
    ground.lab.fw_down().expect("fw down");
    talks.hush(false);
    table.column("handed back", &talks);
    wait::pass(stock);
    table.column("stock Docker again", &talks);
    println!("{}", table.text());
    assert_eq!(table.silent(), Vec::<&str>::new(), "{}\n{}", table.text(), ground.lab.fw_log());
    assert_eq!(ground.lab.rules().expect("the rules"), before);
}

/// How often each kind: once, or as many times as give the number of connections in `FW_TAKEOVER`.
fn rounds() -> usize {
    let wanted = std::env::var("FW_TAKEOVER").ok().and_then(|text| text.parse::<usize>().ok());
    wanted.map_or(1, |wanted| wanted.div_ceil(KINDS))
}

/// How many connections one round opens.
const KINDS: usize = 88;

/// How each kind fared, stage by stage.
#[derive(Default)]
struct Table {
    columns: Vec<(String, Lap, BTreeMap<String, usize>)>,
}

impl Table {
    /// Who answers now, and the longest silence up to now.
    fn column(&mut self, name: &str, talks: &Talks) {
        let mut silent = BTreeMap::new();
        for one in talks.silent(PATIENCE) {
            *silent.entry(one).or_default() += 1;
        }
        self.columns.push((name.to_owned(), talks.lap(), silent));
    }

    fn silent(&self) -> Vec<&str> {
        self.columns.iter().flat_map(|(_, _, silent)| silent.keys()).map(String::as_str).collect()
    }

    /// Survivors of all, and the longest silence of the survivors.
    fn text(&self) -> String {
        let mut text = String::new();
        let Some((_, kinds, _)) = self.columns.first() else { return text };
        for (name, ..) in &self.columns {
            text += &format!("{name:>22}");
        }
        text += "\n";
        let cell = |alive: usize, all: usize, gap: Duration| {
            format!("{:>22}", format!("{alive}/{all} {:>5} ms", gap.as_millis()))
        };
        let mut total = vec![(0, 0, Duration::ZERO); self.columns.len()];
        for kind in kinds.keys() {
            for ((_, laps, silent), total) in self.columns.iter().zip(&mut total) {
                let (all, gap) = laps[kind];
                let alive = all - silent.get(kind).copied().unwrap_or(0);
                text += &cell(alive, all, gap);
                *total = (total.0 + alive, total.1 + all, total.2.max(gap));
            }
            text += &format!("  {kind}\n");
        }
        for (alive, all, gap) in total {
            text += &cell(alive, all, gap);
        }
        text + "  all\n"
    }
}
