//! Docker answers, and not the truth: what stands is not forgotten, and what comes is found.

use serde_json::Value;
use xtask::lab::liar::Manner;

use crate::engine::follows;
use crate::story::{Shown, Story};

pub(crate) fn rows(story: &mut Story<'_>) {
    for (what, manner) in [
        ("the stream of events stalls", Manner::StalledEvents),
        ("the stream of events ends after each event", Manner::OneEvent),
        ("every tenth event is lost", Manner::TenthEventLost),
    ] {
        story.row("Z06", what, |story| {
            story.liar().set(manner);
            let healed = follows(story, "unheard");
            story.liar().set(Manner::Honest);
            Shown { told: None, healed: Some(healed) }
        });
    }
    for (what, manner, words) in [
        ("every question is refused", Manner::Refusing, "the last pass was not complete"),
        ("no question is answered", Manner::Silent, "Docker: "),
        ("no container is listed", Manner::NoContainers, "the last pass was not complete"),
        ("no network but host and none is listed", Manner::Bare, "the last pass was not complete"),
        ("nothing at all is listed", Manner::Nothing, "the last pass was not complete"),
        ("fields are missing", Manner::FieldsMissing, "the last pass was not complete"),
    ] {
        story.row("Z04", what, |story| {
            let before = tables(story);
            story.liar().set(manner);
            story.signal("HUP");
            let told = story.tells(words);
            let passes = story.passes();
            story.signal("HUP");
            story.until("another pass", || story.passes() > passes);
            let now = tables(story);
            for (name, table) in &now {
                let was = before.iter().find(|(other, _)| other == name).map(|(_, table)| table);
                assert_eq!(Some(table), was, "{what}: table {name}");
            }
            story.liar().set(Manner::Honest);
            if manner != Manner::NoContainers {
                // By itself it looks within ten seconds; once is enough to show that.
                story.signal("HUP");
            }
            Shown { told: Some(told), healed: Some(story.heals()) }
        });
    }
}

impl Story<'_> {
    /// How many passes the daemon has finished.
    fn passes(&self) -> u64 {
        let status = self.ground.lab.fw_status().expect("a status");
        status["daemon"]["passes"].as_u64().expect("a number")
    }
}

/// What follows from Docker in the kernel's tables.
fn tables(story: &Story<'_>) -> Vec<(&'static str, Value)> {
    let read = |name| {
        let text = story.ground.lab.fw(&["table", "--json", name]).expect("a table");
        (name, serde_json::from_str(&text).expect("JSON"))
    };
    ["interfaces", "networks", "subnets", "endpoints", "ports"].map(read).to_vec()
}
