//! `fw top` on a terminal of a live host, and what shows the same once: flows, rules, tables.

#[path = "control/ground.rs"]
#[expect(dead_code, reason = "shared with the tests of control, which use more of it")]
mod control;
#[path = "holes/ground.rs"]
#[expect(dead_code, reason = "shared with the holes, which use more of it")]
mod ground;

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::num::NonZero;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use control::{ends, fw};
use ground::{Ground, POLICY};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use xtask::lab::{BPFFS, HOST, Lab, OUTSIDE, ask, fw_binary, wait};

#[test]
fn what_happens_is_seen() {
    let Some(ground) = Ground::start("what_happens_is_seen") else { return };
    let lab = &ground.lab;
    ends(&fw(lab, &["top"], None), 2, &["no terminal"]);
    let daemon = lab.fw_run(&format!("{POLICY}{MORE}")).expect("fw");
    let mut held = ground.a2.place.connect((OUTSIDE, 443).into()).expect("a connection");
    assert!(ask(&mut held).reached());
    let talking = AtomicBool::new(true);
    thread::scope(|scope| {
        let _stop = Stop(&talking);
        scope.spawn(|| talk(lab, &talking));
        flows(lab);
        rules(lab);
        tables(lab);
        once(lab);
        on_a_terminal(lab);
    });
    daemon.terminate().expect("SIGTERM");
    let top = fw(lab, &["top", "--once", "--interval", "1s"], None);
    ends(&top, 0, &["NO DAEMON", "PROBLEM: no daemon keeps the tables in step"]);
    lab.fw_down().expect("fw down");
    ends(&fw(lab, &["top", "--once"], None), 1, &["fw run"]);
}

/// A rule to be slow by, one for the host's own connections, and a denial.
const MORE: &str = "
[[limit]]
name = \"slowly\"
proto = \"tcp\"
ports = [8080]
rate = 10000

[[deny]]
name = \"scanners\"
from = [\"203.0.113.0/24\"]
";

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Asks a container for its name and knocks at a closed port, again and again.
fn talk(lab: &Lab, talking: &AtomicBool) {
    let outside = lab.outside();
    let closed = outside.within(|| UdpSocket::bind("0.0.0.0:0")).expect("a place").expect("a socket");
    while talking.load(Ordering::Relaxed) {
        outside.tcp((HOST, 8080).into()).ok();
        for _ in 0..10 {
            closed.send_to(b"knock", (HOST, 9100)).ok();
        }
    }
}

fn json(lab: &Lab, arguments: &[&str]) -> Value {
    serde_json::from_str(&lab.fw(arguments).expect("fw")).expect("JSON")
}

fn flows(lab: &Lab) {
    let all = json(lab, &["flows", "--json"]);
    let all = all.as_array().expect("a list");
    let its = all.iter().find(|flow| flow["container"] == "a2").expect("the flow of a2");
    assert_eq!(
        [&its["direction"], &its["proto"], &its["remote"], &its["remote_port"], &its["state"], &its["owner"]],
        [
            &Value::from("out"),
            &"tcp".into(),
            &OUTSIDE.to_string().into(),
            &443.into(),
            &"established".into(),
            &"container".into()
        ]
    );
    println!("{}", lab.fw(&["flows"]).expect("fw"));
    let text = lab.fw(&["flows", "--container", "a2"]).expect("fw");
    assert_eq!(text.lines().count(), 2, "a heading and a flow: {text}");
    assert!(text.contains("a2") && text.contains("198.18.0.2:443"), "{text}");
    assert_eq!(lab.fw(&["flows", "--container", "nobody"]).expect("fw"), "(empty)\n");
}

fn rules(lab: &Lab) {
    let rule = |name: &str| {
        let all = json(lab, &["rules", "--json"]);
        all["rules"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|row| row["rule"] == name)
            .cloned()
            .expect("a rule")
    };
    let web = rule("web");
    assert_eq!(
        [&web["target"], &web["ports"], &web["source"]],
        [&Value::from("ACCEPT"), &"8080".into(), &"any".into()]
    );
    assert_eq!(
        [&rule("scanners")["target"], &rule("far-away-only")["source"]],
        [&Value::from("DROP"), &serde_json::json!(["far-away"])]
    );
    let slow = rule("slowly");
    assert!(slow["target"].as_str().is_some_and(|target| target.starts_with("LIMIT 10000/s")), "{slow}");
    wait::until("the rule counts", Duration::from_secs(10), || {
        rule("web")["packets"].as_u64().filter(|it| *it > 0)
    })
    .expect("packets");
    let before = rule("web")["packets"].as_u64();
    ends(&fw(lab, &["reload"], None), 0, &[]);
    assert!(rule("web")["packets"].as_u64() >= before, "counters go on");
    ends(&fw(lab, &["ban", "192.0.2.66"], None), 0, &[]);
    let text = lab.fw(&["rules"]).expect("fw");
    println!("{text}");
    for part in ["192.0.2.66", " ban\n", "What no rule lets pass", "port-not-allowed"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// What can be read without taking it away; of the events there is `fw monitor`.
fn tables(lab: &Lab) {
    let pinned = lab.host().script(&format!("cd {BPFFS}; ls -p | grep -v /")).expect("the pins");
    let maps: Vec<&str> = pinned.lines().filter(|name| *name != "events").collect();
    assert!(maps.len() > 20, "{pinned}");
    for map in maps {
        let rows = json(lab, &["table", map, "--json"]);
        assert!(rows.is_array(), "{map}: {rows}");
    }
    let budgets = json(lab, &["table", "budgets", "--json"]);
    assert!(budgets.as_array().into_iter().flatten().any(|row| row["container"] == "a2"), "{budgets}");
}

fn once(lab: &Lab) {
    let top = fw(lab, &["top", "--once", "--interval", "1s"], None);
    ends(&top, 0, &["mode enforce", "CONTAINER", "a1", "no problems"]);
    assert_eq!(top.out.lines().count(), 24);
    let picture = json(lab, &["top", "--json", "--interval", "1s"]);
    let a1 =
        picture["talkers"].as_array().into_iter().flatten().find(|it| it["container"] == "a1").expect("a1");
    assert!(a1["to"]["packets"].as_f64().is_some_and(|rate| rate > 0.0), "{a1}");
    assert!(picture["dropped"]["packets"].as_f64().is_some_and(|rate| rate > 0.0), "{picture}");
}

fn on_a_terminal(lab: &Lab) {
    let mut top = Top::begin(lab, 24, 80);
    let row_of = |name: &str, screen: &str| {
        let row = screen.lines().find(|line| line.trim_start().starts_with(name))?;
        Some(row.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    top.shows("a1 talks", |screen| {
        row_of("a1 ", screen)
            .is_some_and(|row| row.len() == 7 && row[1] == "A" && row[3..].iter().all(|rate| rate != "0"))
    });
    println!("{}", top.screen());
    top.press("2");
    top.shows("a rate of drops", |screen| {
        row_of("port-not-allowed", screen).is_some_and(|row| row[1] == "uplink_ingress" && row[2] != "0")
    });
    top.shows("rules", |screen| row_of("web ", screen).is_some_and(|row| row[1] != "0"));
    top.press("3");
    top.shows("flows", |screen| row_of("a2 ", screen).is_some_and(|row| row[1] == "1"));
    top.press("4/B\r");
    top.shows("networks that have a B", |screen| {
        row_of("B ", screen).is_some()
            && screen.contains("filter: B")
            && screen.contains("10.2") == screen.contains("10.1")
    });
    top.press("\x1bp");
    top.shows("a pause", |screen| screen.contains("PAUSED") && row_of("A ", screen).is_some());
    top.press("p1");
    top.resize(50, 200);
    top.shows("all views", |screen| {
        [
            "Talkers* by bytes",
            "Drops by rate",
            "Flows by flows",
            "Networks by bytes",
            "port-not-allowed",
            "bridge",
        ]
        .iter()
        .all(|part| screen.contains(part))
    });
    top.shows("rates on all views", |screen| row_of("a1 ", screen).is_some_and(|row| row[3] != "0"));
    println!("{}", top.screen());
    top.press("\x1a");
    wait::until("it stops, and gives the terminal back", Duration::from_secs(10), || {
        (!top.has_all()).then_some(())
    })
    .expect("^Z");
    top.keys.write_all(b"3").expect("a key");
    top.shows("that it goes on", |screen| {
        // `nsenter` stops itself together with what it started, and lets that go on when it does.
        kill(Pid::from_raw(top.child.id().cast_signed()), Signal::SIGCONT).expect("a signal");
        screen.contains("Flows* by flows") && top.has_all()
    });
    top.press("q");
    top.ends_well();

    let top = Top::begin(lab, 24, 80);
    top.shows("the first picture", |screen| screen.contains("fw top"));
    lab.host().script("kill -TERM $(cat /run/lab/top.pid)").expect("a signal");
    top.ends_well();
}

fn size_of(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has lines and columns")
}

/// `fw top` on a terminal of its own, and what is on it.
struct Top {
    child: Child,
    keys: File,
    terminal: std::os::fd::OwnedFd,
    parser: Arc<Mutex<vt100::Parser>>,
}

impl Top {
    fn begin(lab: &Lab, rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).expect("a terminal");
        let parser = Arc::new(Mutex::new(vt100::Parser::new(size_of(rows), size_of(columns), 0)));
        let (mut drawn, seen) =
            (File::from(pair.master.try_clone().expect("a descriptor")), Arc::clone(&parser));
        // Ends with the last who has the terminal open.
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = drawn.read(&mut bytes) {
                seen.lock().unwrap_or_else(PoisonError::into_inner).process(&bytes[..length]);
            }
        });
        let binary = fw_binary().expect("fw");
        let line =
            format!("echo $$ >/run/lab/top.pid; exec {} top --bpffs {BPFFS} --interval 1s", binary.display());
        let terminal = || pair.slave.try_clone().expect("a descriptor");
        let child = lab
            .host()
            .command("sh")
            .args(["-ec", &line])
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(terminal())
            .stdout(terminal())
            .spawn()
            .expect("fw top");
        Self { child, keys: pair.master.into(), terminal: pair.slave, parser }
    }

    fn screen(&self) -> String {
        self.parser.lock().unwrap_or_else(PoisonError::into_inner).screen().contents()
    }

    /// Whether it has the terminal for itself.
    fn has_all(&self) -> bool {
        self.parser.lock().unwrap_or_else(PoisonError::into_inner).screen().alternate_screen()
    }

    #[track_caller]
    fn shows(&self, what: &str, is: impl Fn(&str) -> bool) {
        wait::until(what, Duration::from_secs(20), || is(&self.screen()).then_some(()))
            .unwrap_or_else(|error| panic!("{error:#}:\n{}", self.screen()));
    }

    fn press(&mut self, keys: &str) {
        // One after the other, as they are typed: an escape is none before a letter that comes with it.
        for key in keys.chars() {
            write!(self.keys, "{key}").expect("a key");
            let seen = self.screen();
            wait::until("a picture", Duration::from_secs(3), || (self.screen() != seen).then_some(())).ok();
        }
    }

    fn resize(&self, rows: u16, columns: u16) {
        self.parser
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .screen_mut()
            .set_size(size_of(rows), size_of(columns));
        let [rows, columns] = [rows, columns].map(|number| number.to_string());
        let terminal = self.terminal.try_clone().expect("a descriptor");
        let resized = Command::new("stty").args(["rows", &rows, "cols", &columns]).stdin(terminal).status();
        assert!(resized.is_ok_and(|status| status.success()), "stty");
    }

    /// It ends by itself, and the terminal is what it was.
    #[track_caller]
    fn ends_well(mut self) {
        let ended =
            wait::until("fw top ends", Duration::from_secs(10), || self.child.try_wait().ok().flatten());
        assert!(ended.expect("an end").success());
        let is_back = |screen: &vt100::Screen| !screen.alternate_screen() && !screen.hide_cursor();
        wait::until("the terminal is given back", Duration::from_secs(5), || {
            is_back(self.parser.lock().unwrap_or_else(PoisonError::into_inner).screen()).then_some(())
        })
        .expect("as it was");
        let terminal = self.terminal.try_clone().expect("a descriptor");
        let modes = Command::new("stty").arg("-a").stdin(terminal).output().expect("stty");
        let modes = String::from_utf8_lossy(&modes.stdout).into_owned();
        assert!(modes.contains(" icanon") && modes.contains(" echo "), "{modes}");
    }
}
