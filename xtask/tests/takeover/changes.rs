//! What a policy or `fw down` lets be no more is cut, whoever goes on sending, and nothing else.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use xtask::lab::{Container, HOST, HOST6, OUTSIDE, OUTSIDE6, Place, SOCKET, wait};

use crate::ground::{Ground, NARROW, WIDE};
use crate::talks::{Kind, Opening, PATIENCE, Tuple};

/// How long what is cut is tried: the kernel sends again after 0.2, 0.4, 0.8 and 1.6 s.
const TRIED: Duration = Duration::from_secs(4);

#[test]
fn a_narrower_policy_cuts_what_it_closes_and_nothing_else() {
    let Some(ground) = Ground::start("a_narrower_policy_cuts_what_it_closes_and_nothing_else") else {
        return;
    };
    let daemon = ground.lab.fw_run(WIDE).expect("fw");
    let mut all = Lines { cut: Vec::new(), opening: Opening::default() };
    for _ in 0..3 {
        all.open(&ground);
    }
    let Lines { mut cut, opening } = all;
    let talks = opening.begin();
    // What is the same policy to every one of them cuts none.
    ground.reload(&daemon, &format!("{WIDE}\n[networks.six]\nhost = \"deny\"\n"));
    assert_eq!(talks.silent(PATIENCE), Vec::<String>::new(), "{}", ground.lab.fw_log());
    let planned = Planned::read(&ground);
    ground.reload(&daemon, NARROW);
    wait::pass(TRIED);
    let (mut silent, mut tuples): (Vec<_>, Vec<_>) = talks.silent_tuples(TRIED).into_iter().unzip();
    cut.sort();
    silent.sort();
    assert_eq!(silent, cut, "{}", ground.lab.fw_log());
    tuples.sort();
    assert_eq!(tuples, planned.cut, "what the plan said is what is cut");
    assert_eq!(
        planned.services,
        [("tcp", "2222"), ("tcp", "8081"), ("udp", "5353"), ("udp", "6000")]
            .map(|(proto, port)| (proto.to_owned(), port.to_owned())),
        "the services that close"
    );
    assert_eq!(planned.counted, planned.cut.len(), "each is counted once, at its service or elsewhere");
    // What may be again goes on, as far as both ends still know of it: datagrams do.
    ground.reload(&daemon, WIDE);
    let silent = talks.silent(TRIED);
    let datagrams: Vec<&String> = silent.iter().filter(|name| name.contains("datagrams")).collect();
    assert_eq!(datagrams, Vec::<&String>::new(), "{}", ground.lab.fw_log());
}

/// A daemon that begins judges what it finds by the policy with which it begins, whoever has put that in force, and
/// whoever has cut it.
#[test]
fn a_policy_narrowed_while_no_daemon_ran_cuts_the_same() {
    let Some(ground) = Ground::start("a_policy_narrowed_while_no_daemon_ran_cuts_the_same") else { return };
    let lab = &ground.lab;
    let daemon = lab.fw_run(WIDE).expect("fw");
    let mut all = Lines { cut: Vec::new(), opening: Opening::default() };
    all.open(&ground);
    let Lines { mut cut, opening } = all;
    let talks = opening.begin();
    daemon.kill().expect("SIGKILL");
    let daemon = lab.fw_run(WIDE).expect("fw again");
    assert_eq!(talks.silent(PATIENCE), Vec::<String>::new(), "{}", lab.fw_log());
    daemon.terminate().expect("SIGTERM");
    let daemon = lab.fw_run(NARROW).expect("fw with less");
    wait::pass(TRIED);
    let mut silent = talks.silent(TRIED);
    cut.sort();
    silent.sort();
    assert_eq!(silent, cut, "{}", lab.fw_log());
    daemon.terminate().expect("SIGTERM");
    // Other sizes of tables: new maps take the place of those in force, and what was cut in these.
    let _daemon = lab.fw_run(&format!("{WIDE}\n[tables]\nflows = 65536\n")).expect("fw with more");
    let silent = talks.silent(TRIED);
    let datagrams: Vec<&String> = silent.iter().filter(|name| name.contains("datagrams")).collect();
    assert_eq!(datagrams, Vec::<&String>::new(), "{}", lab.fw_log());
}

/// What conntrack does not know, the host's own sockets tell.
#[test]
fn untracked_connections_of_the_host_are_kept_and_cut() {
    let test = "untracked_connections_of_the_host_are_kept_and_cut";
    let Some(ground) = Ground::untracked(test) else { return };
    let (host, outside) = (ground.lab.host(), ground.lab.outside());
    let mut opening = Opening::default();
    opening.quiet = true;
    let mut open = |what: &str, kind, port| {
        opening.open(what, kind, outside, (HOST6, port).into(), (host, port));
    };
    open("closed", Kind::Tcp, 2323);
    open("ssh", Kind::Tcp, 22);
    open("rule goes", Kind::Tcp, 2222);
    open("rule goes", Kind::Pushed, 2222);
    opening.open("out", Kind::Pushed, host, (OUTSIDE6, 443).into(), (outside, 443));
    let talks = opening.begin();
    talks.hush(true);
    let daemon = ground.lab.fw_run(WIDE).expect("fw");
    talks.hush(false);
    assert_eq!(talks.silent(PATIENCE), Vec::<String>::new(), "{}", ground.lab.fw_log());
    ground.reload(&daemon, NARROW);
    wait::pass(TRIED);
    assert_eq!(talks.silent(TRIED), ["rule goes, quiet meanwhile"; 2], "{}", ground.lab.fw_log());
}

/// What `fw plan` says of [`NARROW`].
struct Planned {
    /// The connections that would be cut, sorted.
    cut: Vec<Tuple>,
    /// Protocol and port of the services that would be closed, each once, sorted.
    services: Vec<(String, String)>,
    /// Cut connections by service, and those that lead to none.
    counted: usize,
}

impl Planned {
    fn read(ground: &Ground) -> Self {
        std::fs::write(ground.lab.path("/run/lab/planned.toml"), NARROW).expect("a policy");
        let mut command = ground
            .lab
            .fw_command(&["plan", "/run/lab/planned.toml", "--docker", SOCKET, "--json"])
            .expect("fw");
        let output = command.output().expect("fw plan");
        assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
        let plan: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let list = |key: &str| plan[key].as_array().unwrap_or_else(|| panic!("no {key}: {plan}")).clone();
        let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
        let at = |row: &Value, address: &str, port: &str| {
            let port = row[port].as_u64().and_then(|port| port.try_into().ok()).expect("a port");
            SocketAddr::new(text(row, address).parse().expect("an address"), port)
        };
        let tuple =
            |row: &Value| (text(row, "proto"), at(row, "from", "from_port"), at(row, "to", "to_port"));
        let mut cut: Vec<_> = list("cuts").iter().map(tuple).collect();
        cut.sort();
        let mut services = Vec::new();
        for row in list("services") {
            assert_eq!((&row["before"], &row["after"]), (&"any".into(), &"closed".into()), "{row}");
            services.push((text(&row, "proto"), text(&row, "ports")));
        }
        services.sort();
        services.dedup();
        let of = |rows: &[Value]| rows.iter().filter_map(|row| row["cut"].as_u64()).sum::<u64>();
        let counted = of(&list("services")) + of(&list("cuts_elsewhere"));
        Self { cut, services, counted: counted.try_into().expect("a number") }
    }
}

struct Lines {
    /// Names of those that the narrower policy cuts.
    cut: Vec<String>,
    opening: Opening,
}

impl Lines {
    fn open(&mut self, ground: &Ground) {
        let (host, outside, web) = (ground.lab.host(), ground.lab.outside(), &ground.web.place);
        let (v4, v6): (IpAddr, IpAddr) = (HOST.into(), HOST6.into());
        let (out4, out6): (IpAddr, IpAddr) = (OUTSIDE.into(), OUTSIDE6.into());
        let ip = |container: &Container| container.ip().expect("an address");
        let gateway = |container: &Container| IpAddr::from(container.gateway.expect("a gateway"));
        let (shut, six) = (&ground.shut, &ground.six.place);
        for kind in [Kind::Tcp, Kind::Pushed] {
            for (address, family) in [(v4, "v4"), (v6, "v6")] {
                self.kept(&format!("ssh {family}"), kind, outside, (address, 22), (host, 22));
                self.cut(&format!("rule gone {family}"), kind, outside, (address, 2222), (host, 2222));
            }
            self.kept("published", kind, outside, (v4, 8080), (web, 80));
            self.cut("published, rule gone", kind, outside, (v4, 8081), (web, 81));
            self.kept("container out", kind, web, (out4, 443), (outside, 443));
            self.cut("container out, egress none", kind, six, (out6, 443), (outside, 443));
            self.kept("container to host", kind, web, (gateway(&ground.web), 9000), (host, 9000));
            self.cut("container to host, denied", kind, &shut.place, (gateway(shut), 9000), (host, 9000));
            self.kept("host out", kind, host, (out4, 443), (outside, 443));
            self.kept("host to container", kind, host, (ip(shut), 86), (&shut.place, 86));
            self.kept("neighbours", kind, &ground.other.place, (ip(&ground.web), 85), (web, 85));
            self.cut("reach", kind, web, (ip(shut), 87), (&shut.place, 87));
        }
        self.cut("datagrams published", Kind::Udp, outside, (v4, 5353), (web, 53));
        self.cut("datagrams to host", Kind::Udp, outside, (v4, 6000), (host, 6000));
        self.kept("datagrams out", Kind::Udp, web, (out4, 4433), (outside, 4433));
        self.cut("datagrams out, egress none", Kind::Udp, six, (out6, 4436), (outside, 4436));
        self.kept("pings out", Kind::Ping, web, (out4, 0), (outside, 0));
        self.cut("pings out, egress none", Kind::Ping, six, (out6, 0), (outside, 0));
    }

    fn kept(&mut self, what: &str, kind: Kind, from: &Place, to: (IpAddr, u16), at: (&Place, u16)) -> String {
        let name = format!("{what} ({kind:?})");
        self.opening.open(&name, kind, from, SocketAddr::from(to), at);
        name
    }

    fn cut(&mut self, what: &str, kind: Kind, from: &Place, to: (IpAddr, u16), at: (&Place, u16)) {
        let name = self.kept(what, kind, from, to, at);
        self.cut.push(name);
    }
}

/// W15, too: somebody keeps packet marks in conntrack and gives them back.
#[test]
fn nothing_that_only_fw_allowed_outlives_it() {
    let Some(ground) = Ground::start("nothing_that_only_fw_allowed_outlives_it") else { return };
    let host = ground.lab.host();
    host.script(
        "iptables -w -t mangle -A PREROUTING -m mark --mark 0 -j CONNMARK --restore-mark
         iptables -w -t mangle -A POSTROUTING -m mark ! --mark 0 -j CONNMARK --save-mark
         ip rule add fwmark 1 lookup main",
    )
    .expect("rules of others");
    let daemon = ground.lab.fw_run(WIDE).expect("fw");
    let mut opening = Opening::default();
    let ip = |container: &Container| container.ip().expect("an address");
    let web = &ground.web.place;
    for kind in [Kind::Tcp, Kind::Pushed, Kind::Udp] {
        let port = 87 + kind as u16;
        let reached = (&ground.shut.place, port);
        opening.open("reach", kind, web, (ip(&ground.shut), port).into(), reached);
        let neighbours = (ip(&ground.web), port).into();
        opening.open("neighbours", kind, &ground.other.place, neighbours, (web, port));
        opening.open("out", kind, web, (OUTSIDE, port).into(), (ground.lab.outside(), port));
    }
    opening.open("in", Kind::Pushed, ground.lab.outside(), (HOST, 8080).into(), (web, 80));
    let talks = opening.begin();
    daemon.terminate().expect("SIGTERM");
    let said = ground.lab.fw_command(&["down"]).expect("fw").output().expect("fw down");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("cut 3 connections"), "{said}");
    wait::pass(TRIED);
    assert_eq!(talks.silent(TRIED), ["reach"; 3], "{said}");
}
