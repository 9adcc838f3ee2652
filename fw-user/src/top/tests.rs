//! Pictures by example, drawn at both sizes that matter.

use bytemuck::Zeroable as _;
use fw_common::tables::{Interface, NameKey, Network};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::draw::{draw, text};
use super::*;

/// Containers `web` on `front` and `db` on `back`, ports 11 and 12, behind the uplink 2.
fn names() -> State {
    let mut names = State::default();
    let interface =
        |role, network, known| Interface { role, network, endpoint_known: known, ..Interface::zeroed() };
    names.tables.interfaces.insert(2, interface(role::UPLINK, 0, 0));
    for (port, network, container, name) in [(11, 3, "web", "front"), (12, 4, "db", "back")] {
        names.tables.networks.insert(network, Network::zeroed());
        names.tables.interfaces.insert(port, interface(role::PORT, network, 1));
        names.names.insert(NameKey { kind: name_kind::ENDPOINT, id: port }, container.to_owned());
        names.names.insert(NameKey { kind: name_kind::NETWORK, id: network }, name.to_owned());
    }
    names.tables.interfaces.insert(13, interface(role::PORT, 4, 0));
    names.names.insert(NameKey { kind: name_kind::RULE, id: 1 }, "ssh from office".to_owned());
    names
}

fn count(packets: u64, bytes: u64) -> Count {
    Count { packets, bytes }
}

fn sample(at: u64, grown: u64) -> Sample {
    let device = |name: &str, times: u64| {
        let traffic = Traffic {
            received: count(100 * grown * times, 10_000 * grown * times),
            sent: count(10 * grown * times, 700 * grown * times),
        };
        (name.to_owned(), traffic)
    };
    Sample {
        at,
        devices: BTreeMap::from([
            (2, device("eth0", 3)),
            (3, device("br-front", 0)),
            (4, device("br-back", 0)),
            (11, device("veth1", 1)),
            (12, device("veth2", 5)),
            (13, device("veth3", 0)),
        ]),
        counters: BTreeMap::from([
            ((Hook::UplinkIngress, Reason::PortNotAllowed), count(1000 + 7 * grown, 60_000)),
            ((Hook::PortIngress, Reason::Isolation), count(5000, 60)),
            ((Hook::UplinkIngress, Reason::AllowRule), count(grown, grown)),
        ]),
        rules: BTreeMap::from([(1, count(40 + grown, 0))]),
        daemon: Some(Daemon { pid: 42, ready: 1, docker: 1, handover: 1, ..Daemon::zeroed() }),
        alive: true,
    }
}

fn seen() -> Picture {
    let sweep = Sweep {
        counts: BTreeMap::from([("web".to_owned(), [3, 4, 0]), ("(host)".to_owned(), [9, 0, 1])]),
        took: 1500,
    };
    picture(&names(), &sample(1000, 0), &sample(3000, 2), Some(&sweep))
}

fn drawn(picture: &Picture, view: &View, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(frame, picture, view)).expect("drawn");
    text(terminal.backend().buffer())
}

#[test]
fn rates_are_what_has_grown_in_a_second() {
    let picture = seen();
    let rate = |packets, bytes| Rate { packets, bytes };
    assert_eq!(picture.mode, "enforce");
    assert!((picture.seconds - 2.0).abs() < f64::EPSILON);
    assert_eq!((picture.uplink_in, picture.uplink_out), (rate(300.0, 30_000.0), rate(30.0, 2100.0)));
    let talker = picture.talkers.iter().find(|it| it.container == "db").expect("db");
    assert_eq!((talker.from, talker.to), (rate(500.0, 50_000.0), rate(50.0, 3500.0)));
    assert_eq!(picture.dropped, rate(7.0, 0.0), "what is let in is no drop");
    assert_eq!(picture.rules[0].rate, rate(1.0, 0.0));
    let back = picture.networks.iter().find(|it| it.network == "back").expect("back");
    assert_eq!((back.containers, back.bridge.as_str()), (1, "br-back"), "of two ports one is known");
    assert_eq!(picture.problems, [""; 0]);
}

#[test]
fn a_counter_that_begins_anew_counts_from_nothing() {
    let now = picture(&names(), &sample(1000, 2), &sample(2000, 1), None);
    assert_eq!(now.uplink_in, Rate { packets: 300.0, bytes: 30_000.0 });
    let same = picture(&names(), &sample(1000, 1), &sample(1000, 1), None);
    assert_eq!(same.uplink_in, Rate::default(), "no time has passed");
}

#[test]
fn problems_are_told() {
    let mut after = sample(3000, 2);
    after.daemon =
        Some(Daemon { docker: 0, degraded: 1, nat: nat_health::GONE, ..after.daemon.expect("one") });
    let told = picture(&names(), &sample(1000, 0), &after, None);
    assert_eq!(told.problems.len(), 3, "{:?}", told.problems);
    let at = drawn(&told, &View::default(), (80, 24));
    assert!(at.contains("PROBLEM: Docker does not answer"), "{at}");
    after.alive = false;
    let told = picture(&names(), &sample(1000, 0), &after, None);
    assert!(told.daemon == "NO DAEMON" && told.problems[0].contains("no daemon"), "{told:?}");
}

#[test]
fn one_view_at_a_time_where_room_is_scarce() {
    let mut view = View::default();
    let first = drawn(&seen(), &view, (80, 24));
    assert_eq!(first, include_str!("tests/talkers-80x24.txt"), "\n{first}");
    view.press(Pressed::Char('2'));
    let second = drawn(&seen(), &view, (80, 24));
    assert_eq!(second, include_str!("tests/drops-80x24.txt"), "\n{second}");
    view.press(Pressed::Char('3'));
    let third = drawn(&seen(), &view, (80, 24));
    assert!(third.contains("16 live flows, counted within 1.5 s"), "{third}");
    assert!(third.find("(host)") < third.find("web"), "most first: {third}");
    view.press(Pressed::Char('4'));
    let fourth = drawn(&seen(), &view, (80, 24));
    assert!(fourth.contains("br-front") && fourth.contains("[4 Networks]"), "{fourth}");
}

#[test]
fn all_views_at_once_where_there_is_room() {
    let all = drawn(&seen(), &View::default(), (200, 50));
    assert_eq!(all, include_str!("tests/all-200x50.txt"), "\n{all}");
}

#[test]
fn what_is_filtered_out_is_not_drawn() {
    let mut view = View::default();
    for key in "/WEB".chars() {
        view.press(Pressed::Char(key));
    }
    let typing = drawn(&seen(), &view, (80, 24));
    assert!(typing.contains("filter: WEB_"), "{typing}");
    view.press(Pressed::Enter);
    view.press(Pressed::Char('p'));
    let at = drawn(&seen(), &view, (80, 24));
    assert!(at.contains("web") && !at.contains("db "), "{at}");
    assert!(at.contains("PAUSED  filter: WEB"), "{at}");
    view.press(Pressed::Escape);
    view.press(Pressed::Char('?'));
    assert!(drawn(&seen(), &view, (80, 24)).contains("show only lines that hold a text"));
}

#[test]
fn a_terminal_of_any_size_is_drawn_on() {
    for size in [(1, 1), (5, 3), (20, 5), (79, 23), (159, 60), (300, 40)] {
        for keys in ["1", "2", "3", "4?"] {
            let mut view = View::default();
            keys.chars().for_each(|key| _ = view.press(Pressed::Char(key)));
            view.scroll = 1000;
            drawn(&seen(), &view, size);
            drawn(&Picture::default(), &view, size);
        }
    }
}
