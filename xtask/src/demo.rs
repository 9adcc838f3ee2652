//! The demonstration: a Docker host made on the spot, what reaches what without fw and with it, and what fw shows.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::lab::table::Table;
use crate::lab::{BPFFS, Container, HOST, Lab, OUTSIDE, Options, Outcome, Server, fw_binary, wait};
use crate::setup::{self, Part};
use crate::workspace;

/// Runs the demonstration and leaves nothing behind.
pub fn run() -> Result<()> {
    let start = Instant::now();
    // Who is not root is told so below; nothing could be installed either.
    if setup::is_root() {
        setup::ensure(&[Part::Build, Part::Lab])?;
    }
    if let Some(obstacle) = crate::lab::obstacle() {
        anyhow::bail!("the demonstration needs a lab, and none can be made here: {obstacle}");
    }
    heading("Build fw");
    build()?;

    heading("Make a Docker host and an outside client, in namespaces of this machine");
    let lab = Lab::start(Options::default())?;
    let scene = Scene::set(&lab)?;
    // Until duplicate address detection has ended, nothing answers by IPv6, and silence would prove nothing.
    let settled =
        || lab.host().script("ip -6 -oneline address show tentative").ok()?.is_empty().then_some(());
    wait::until("the host's IPv6 addresses to settle", Duration::from_secs(10), settled)?;
    scene.describe(&lab);

    heading("Without fw: what reaches what");
    let before = scene.probe_all(&lab)?;
    print_outcomes(&before, None);
    let rules_before = lab.rules()?;

    heading("Start fw with this policy");
    println!("{}", indent(POLICY));
    let daemon = lab.fw_run(POLICY).context("cannot start fw in the demonstration's host")?;
    println!("{}", indent(&lab.fw_log()));

    heading("With fw: what reaches what");
    let after = scene.probe_all(&lab)?;
    print_outcomes(&before, Some(&after));

    heading("fw status");
    println!("{}", indent(&lab.fw(&["status"])?));

    heading("fw monitor, while the outside tries the closed ports");
    println!("{}", indent(&monitored(&lab, &scene)?));

    heading("The tables in the kernel, read with bpftool");
    dump(&lab)?;

    heading("fw down");
    daemon.terminate()?;
    lab.fw_down()?;
    ensure!(lab.rules()? == rules_before, "`fw down` did not leave the iptables rules as they were");
    println!(
        "  iptables-save and ip6tables-save print what they printed before fw was started (counters aside)."
    );

    drop(scene);
    drop(lab);
    heading(&format!(
        "Done in {:.1} s; host, containers and network are gone",
        start.elapsed().as_secs_f32()
    ));
    Ok(())
}

/// Two networks, their containers, and the servers in them.
struct Scene {
    shop: Container,
    cart: Container,
    database: Container,
    _servers: Vec<Server>,
}

impl Scene {
    fn set(lab: &Lab) -> Result<Self> {
        lab.network("front", &["--ipv6", "--subnet", "10.100.1.0/24", "--subnet", "2001:db8:100::/64"])?;
        lab.network("back", &["--subnet", "10.100.2.0/24"])?;
        let shop = lab.container("shop", &["--network", "front", "-p", "8080:80"])?;
        let cart = lab.container("cart", &["--network", "front"])?;
        let database = lab.container("database", &["--network", "back", "-p", "5432:5432"])?;
        let servers = vec![
            shop.place.serve_tcp("[::]:80", "shop")?,
            cart.place.serve_tcp("[::]:7000", "cart")?,
            database.place.serve_tcp("[::]:5432", "database")?,
            lab.host().serve_tcp("[::]:9100", "the host's metrics")?,
            lab.outside().serve_tcp("[::]:443", "a service outside")?,
        ];
        Ok(Self { shop, cart, database, _servers: servers })
    }

    fn describe(&self, lab: &Lab) {
        let mut table = Table::new(&["who", "where", "serves"]);
        let address = |container: &Container| container.v4.map(|v4| v4.to_string()).unwrap_or_default();
        table.row(&[&"outside", &OUTSIDE, &"443"]);
        table.row(&[&"host", &HOST, &"9100, its own metrics"]);
        table.row(&[&"shop", &address(&self.shop), &"80, published as 8080; network front"]);
        table.row(&[&"cart", &address(&self.cart), &"7000, not published; network front, IPv4 and IPv6"]);
        table.row(&[&"database", &address(&self.database), &"5432, published by mistake; network back"]);
        println!("  dockerd {}, kernel {}\n\n{table}", lab.docker_version(), kernel());
    }

    fn probe_all(&self, lab: &Lab) -> Result<Vec<Outcome>> {
        let ways = ways();
        // Probes that meet silence wait for their timeout: all at once.
        thread::scope(|scope| {
            let running: Vec<_> = ways.iter().map(|way| scope.spawn(|| (way.probe)(self, lab))).collect();
            running
                .into_iter()
                .map(|probe| probe.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }
}

/// One line of the table.
struct Way {
    from: &'static str,
    to: &'static str,
    probe: fn(&Scene, &Lab) -> Result<Outcome>,
}

fn ways() -> Vec<Way> {
    let way = |from, to, probe| Way { from, to, probe };
    vec![
        way("outside", "shop, published 8080", |_, lab| lab.outside().tcp((HOST, 8080).into())),
        way("outside", "database, published 5432", |_, lab| lab.outside().tcp((HOST, 5432).into())),
        way("outside", "the host's own port 9100", |_, lab| lab.outside().tcp((HOST, 9100).into())),
        way("outside", "shop's container address, port 80", |s, lab| {
            lab.outside().tcp((s.shop.ip()?, 80).into())
        }),
        way("outside", "cart's IPv6 address, port 7000", |s, lab| {
            lab.outside().tcp((s.cart.ip6()?, 7000).into())
        }),
        way("outside", "the host, ping", |_, lab| lab.outside().ping(HOST.into())),
        way("shop", "cart, same network", |s, _| s.shop.place.tcp((s.cart.ip()?, 7000).into())),
        way("shop", "database, other network", |s, _| s.shop.place.tcp((s.database.ip()?, 5432).into())),
        way("shop", "the outside, port 443", |s, _| s.shop.place.tcp((OUTSIDE, 443).into())),
    ]
}

fn print_outcomes(before: &[Outcome], after: Option<&[Outcome]>) {
    let mut table = match after {
        None => Table::new(&["from", "to", "without fw"]),
        Some(_) => Table::new(&["from", "to", "without fw", "with fw"]),
    };
    for (number, way) in ways().iter().enumerate() {
        let without = words(&before[number]);
        match after {
            None => table.row(&[&way.from, &way.to, &without]),
            Some(after) => table.row(&[&way.from, &way.to, &without, &words(&after[number])]),
        }
    }
    print!("{table}");
}

fn words(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Reach(_) => "reached",
        Outcome::Silent => "silence",
        Outcome::Refused => "refused",
    }
}

/// What `fw monitor` says while forbidden packets arrive.
fn monitored(lab: &Lab, scene: &Scene) -> Result<String> {
    let binary = fw_binary()?.display().to_string();
    let line = format!("timeout -s INT {MONITOR_SECONDS} {binary} monitor --bpffs {BPFFS} || true");
    thread::scope(|scope| {
        let monitor = scope.spawn(|| lab.host().script(&line));
        // The probes last longer than the monitor needs to start: each waits for more than a second.
        for _ in 0..2 {
            scene.probe_all(lab)?;
        }
        let said = monitor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(excerpt(&said, 12))
    })
}

fn dump(lab: &Lab) -> Result<()> {
    for map in ["ports", "networks"] {
        let pin = lab.host().script(&format!("find {BPFFS} -name {map}"))?;
        let pin =
            pin.lines().next().with_context(|| format!("no map called {map} is pinned below {BPFFS}"))?;
        println!("  bpftool map dump pinned {pin}");
        println!("{}\n", indent(&excerpt(&lab.host().run(&["bpftool", "map", "dump", "pinned", pin])?, 24)));
    }
    Ok(())
}

fn build() -> Result<()> {
    if std::env::var_os("FW_BIN").is_none() {
        workspace::build_fw().context("fw does not build: see above")?;
    }
    println!("  {}", fw_binary()?.display());
    Ok(())
}

fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    name.map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

fn heading(text: &str) {
    println!("\n{text}\n{}", "=".repeat(text.chars().count()));
}

fn indent(text: &str) -> String {
    text.trim_end()
        .lines()
        .map(|line| format!("  {line}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn excerpt(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    if all.len() <= lines {
        return all.join("\n");
    }
    format!("{}\n… and {} lines more", all[..lines].join("\n"), all.len() - lines)
}

const MONITOR_SECONDS: u32 = 5;

const POLICY: &str = r#"# The outside may ping, and use the shop. Nothing else.
[uplink]
published = "closed"

[[allow]]
name = "shop"
proto = "tcp"
ports = [8080]

[[allow]]
name = "ping"
proto = "icmp"
"#;
