//! What `fw status` says is reachable, against what a port scanner finds: the same set, or it is told where they differ.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::lab::{HOST6, Lab, Options, Place, Server, wait};

/// An open port as a scanner names it: address, protocol, port.
pub type Port = (String, &'static str, u16);

/// A Docker host with thirty containers and a few services of its own, under [`POLICY`].
pub struct Street {
    /// The lab.
    pub lab: Lab,
    servers: Vec<Server>,
}

/// What a scan looks at.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Ports at the host's own addresses, as nmap reads them.
    pub host: &'static str,
    /// Ports at addresses of containers and bridges.
    pub direct: &'static str,
    /// Ports that are asked for by datagrams.
    pub datagrams: &'static str,
    /// Packets a second at least.
    pub rate: &'static str,
}

impl Reach {
    /// Where anything is, and its neighbourhood.
    pub const SHORT: Self = Self {
        host: "1-100,8000-8110,9000-9040",
        direct: "80-82,8000-8033,9000-9012",
        datagrams: "5353-5355,6000-6002",
        rate: "4000",
    };
    /// Every port of the host, and the first ten thousand elsewhere.
    pub const LONG: Self =
        Self { host: "1-65535", direct: "1-10000", datagrams: "5300-5400,6000-6010", rate: "20000" };
}

impl Street {
    /// Makes it. Nothing of fw runs yet.
    pub fn build() -> Result<Self> {
        let lab = Lab::start(Options::default())?;
        lab.host().script(&format!("ip addr add {FURTHER} dev lo; ip addr add {FURTHER6} dev lo nodad"))?;
        lab.network("web", &["--subnet", "10.1.0.0/24"])?;
        lab.network("six", &["--subnet", "10.2.0.0/24", "--ipv6", "--subnet", "2001:db8:6::/64"])?;
        lab.network("shut", &["--internal", "--subnet", "10.3.0.0/24"])?;
        let mut street = Self { lab, servers: Vec::new() };
        street.containers()?;
        street.host()?;
        Ok(street)
    }

    /// c1 to c12 serve and c13 to c18 do not, whether or not a rule opens their port; what comes then is special.
    fn containers(&self) -> Result<()> {
        const SERVES: &[&str] = &["httpd", "-f", "-p", "80"];
        const SILENT: &[&str] = &["tail", "-f", "/dev/null"];
        let mut made: Vec<(u16, Vec<String>, &[&str])> = Vec::new();
        for number in 1..=30_u16 {
            let plain = [format!("-p={}:80", 8000 + number)];
            let (options, command): (Vec<&str>, _) = match number {
                1..=12 => (vec!["--network=web", &plain[0]], SERVES),
                13..=18 => (vec!["--network=web", &plain[0]], SILENT),
                19..=22 => (vec!["--network=six", &plain[0]], SERVES),
                23 => (vec!["--network=web", "-p=198.18.0.1:8023:80"], SERVES),
                24 => (vec!["--network=web", "-p=127.0.0.1:8024:80"], SERVES),
                25 => (vec!["--network=six", "-p=8100-8104:78-82"], SERVES),
                26 => (vec!["--network=web", "-p=5353:53/udp", "-p=5354:54/udp", "-p=5355:55/udp"], SILENT),
                27 => (vec!["--network=web", &plain[0], "--label=fw.allow_from=10.9.9.0/24"], SERVES),
                28 => (vec!["--network=shut"], SERVES),
                29 => (vec!["--network=host"], &["httpd", "-f", "-p", "9029"][..]),
                _ => (
                    vec![
                        "--network=web",
                        &plain[0],
                        "--label=com.docker.compose.project=shop",
                        "--label=com.docker.compose.service=web",
                    ],
                    SERVES,
                ),
            };
            made.push((number, options.into_iter().map(str::to_owned).collect(), command));
        }
        // Four at a time: Docker's work is mostly waiting.
        std::thread::scope(|scope| {
            let quarters: Vec<_> = (0..4)
                .map(|quarter| {
                    let mine = made.iter().filter(move |(number, ..)| number % 4 == quarter);
                    scope.spawn(move || {
                        for (number, options, command) in mine {
                            let name = format!("c{number}");
                            let mut arguments = vec!["run", "-d", "--name", &name];
                            arguments.extend(options.iter().map(String::as_str));
                            arguments.push("fwlab");
                            arguments.extend(*command);
                            self.lab.docker(&arguments)?;
                        }
                        Ok::<_, anyhow::Error>(())
                    })
                })
                .collect();
            quarters.into_iter().try_for_each(|quarter| quarter.join().expect("no panic"))
        })
    }

    /// Services of the host, on any address of one family or both, on single addresses, on loopback.
    fn host(&mut self) -> Result<()> {
        let host = self.lab.host();
        for at in
            ["0.0.0.0:9001", "[::]:9002", "198.18.0.1:9003", "127.0.0.1:9004", "198.18.7.1:9005", "[::]:9006"]
        {
            self.servers.push(host.serve_tcp(at, "H")?);
        }
        self.servers.push(host.serve_tcp(&format!("[{HOST6}]:9008"), "H")?);
        for at in ["0.0.0.0:6000", "[::]:6001", "127.0.0.1:6002"] {
            self.servers.push(host.serve_udp(at, "H")?);
        }
        let c26 = self.lab.inspect("c26")?.place;
        for at in ["0.0.0.0:53", "0.0.0.0:54"] {
            self.servers.push(c26.serve_udp(at, "c26")?);
        }
        self.lab.keep_running(host.command("busybox").args(["httpd", "-f", "-p", "9007"]))
    }

    /// What the lab's fw says, once it knows every container.
    pub fn status(&self) -> Result<Value> {
        let mut last = Value::Null;
        wait::until("fw knows all containers", Duration::from_secs(20), || {
            let status = self.lab.fw_status().ok()?;
            let known: u64 =
                status["networks"].as_array()?.iter().filter_map(|row| row["containers"].as_u64()).sum();
            last = status;
            // One has the host's network.
            (known == 29).then_some(())
        })
        .with_context(|| format!("networks: {:#}", last["networks"]))?;
        self.lab.fw_status()
    }

    /// Every address that the outside might ask: the host's, the bridges', the containers'.
    fn addresses(&self) -> Result<(Vec<IpAddr>, Vec<IpAddr>)> {
        let text = self.lab.host().script("ip -o addr show scope global")?;
        let mut own = Vec::new();
        let mut direct = Vec::new();
        for words in text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()) {
            let address = words[3].split('/').next().unwrap_or_default().parse()?;
            if words[1].starts_with("br-") || words[1] == "docker0" { &mut direct } else { &mut own }
                .push(address);
        }
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.GlobalIPv6Address}} {{end}}";
        let names: Vec<String> = (1..=30).map(|number| format!("c{number}")).collect();
        let mut arguments = vec!["inspect", "--format", format];
        arguments.extend(names.iter().map(String::as_str));
        let text = self.lab.docker(&arguments)?;
        direct.extend(text.split_whitespace().filter_map(|word| word.parse::<IpAddr>().ok()));
        Ok((own, direct))
    }

    /// What the scanner finds open from outside: by SYN and by whole connections at the host, by SYN elsewhere, and by
    /// datagrams.
    pub fn scan(&self, reach: &Reach) -> Result<Vec<(&'static str, BTreeSet<Port>)>> {
        let (own, direct) = self.addresses()?;
        let link_local = self.lab.host().script("ip -o -6 addr show dev eth0 scope link")?;
        let link_local = link_local.split_whitespace().nth(3).and_then(|word| word.split('/').next());
        let link_local = link_local.context("the uplink has a link-local address")?;
        let mut own: Vec<String> = own.iter().map(IpAddr::to_string).collect();
        own.push(format!("{link_local}%eth0"));
        let direct: Vec<String> = direct.iter().map(IpAddr::to_string).collect();
        // A socket that is bound to no address answers under the uplink's, so of others nothing is heard.
        let mut asked = [own.clone(), direct.clone()].concat();
        asked.retain(|address| !is_further(address));
        let from = self.lab.outside();
        let mut by_syn = nmap(from, reach.rate, &["-sS", "-p", reach.host], &own)?;
        by_syn.extend(nmap(from, reach.rate, &["-sS", "-p", reach.direct], &direct)?);
        Ok(vec![
            ("SYN", by_syn),
            ("connections", nmap(from, reach.rate, &["-sT", "-p", reach.host], &own)?),
            ("datagrams", nmap(from, reach.rate, &["-sU", "-p", reach.datagrams], &asked)?),
        ])
    }
}

/// What `fw status` says a client in these sets reaches, and where somebody listens.
pub fn said(status: &Value, sets: &[&str], protocol: &'static str) -> Result<BTreeSet<Port>> {
    let mut said = BTreeSet::new();
    for row in status["exposure"].as_array().context("`exposure` is a list")? {
        let from = &row["from"];
        let allowed = from == "any"
            || from
                .as_array()
                .is_some_and(|names| names.iter().any(|name| sets.iter().any(|set| name == set)));
        if row["proto"] != protocol || !allowed {
            continue;
        }
        ensure!(row["listens"].is_boolean(), "fw cannot tell who listens: {row}");
        if row["listens"] == false {
            continue;
        }
        let ports = row["ports"].as_str().context("`ports` is a text")?;
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        for address in row["addresses"].as_array().context("`addresses` is a list")? {
            let address = address.as_str().context("an address is a text")?;
            // The scanner does not print of which device a link-local address is.
            let address = address.split('%').next().unwrap_or_default();
            said.extend((first.parse()?..=last.parse()?).map(|port| (address.to_owned(), protocol, port)));
        }
    }
    Ok(said)
}

/// Runs Debian's nmap there. Both families, each in a run of its own.
fn nmap(from: &Place, rate: &str, how: &[&str], addresses: &[String]) -> Result<BTreeSet<Port>> {
    let mut found = BTreeSet::new();
    for six in [false, true] {
        let of_family: Vec<&str> =
            addresses.iter().map(String::as_str).filter(|address| address.contains(':') == six).collect();
        let mut argv =
            vec!["nmap", "-Pn", "-n", "-T5", "--min-rate", rate, "--max-retries", "2", "--open", "-oG", "-"];
        if how.contains(&"-sU") {
            // Nobody answers for what is closed, and each such port takes all its retries.
            argv.extend(["--max-rtt-timeout", "200ms"]);
        }
        if six {
            argv.push("-6");
        }
        argv.extend(how);
        argv.extend(of_family);
        let text = from.run(&argv)?;
        ensure!(text.contains("# Nmap done"), "nmap was not done: {text}");
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("Host: ") else { continue };
            let Some((address, ports)) = rest.split_once(" ()\tPorts: ") else { continue };
            for port in ports.split('\t').next().unwrap_or_default().split(", ") {
                let fields: Vec<&str> = port.trim().split('/').collect();
                let [number, "open", protocol, ..] = fields[..] else { continue };
                let protocol = if protocol == "udp" { "udp" } else { "tcp" };
                found.insert((address.to_owned(), protocol, number.parse()?));
            }
        }
    }
    Ok(found)
}

/// Scans and compares; what differs is an error. Prints what was found.
pub fn compare(street: &Street, reach: &Reach) -> Result<()> {
    let status = street.status()?;
    let begun = Instant::now();
    let scans = street.scan(reach)?;
    println!("scanned in {} s", begun.elapsed().as_secs());
    for (how, found) in scans {
        let protocol = if how == "datagrams" { "udp" } else { "tcp" };
        let mut said = said(&status, &["here"], protocol)?;
        said.retain(|(address, ..)| protocol == "tcp" || !is_further(address));
        let missing: Vec<_> = said.difference(&found).collect();
        let more: Vec<_> = found.difference(&said).collect();
        println!("{how}: the scanner finds {} open, fw says {}", found.len(), said.len());
        ensure!(
            missing.is_empty() && more.is_empty() && !found.is_empty(),
            "{how}: fw says reachable, and the scanner finds closed: {missing:?}; the scanner finds open, and fw does not \
             say so: {more:?}\n{}",
            status["exposure"]
                .as_array()
                .into_iter()
                .flatten()
                .map(Value::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
    Ok(())
}

/// The whole comparison, over every port.
pub fn scan() -> Result<()> {
    let begun = Instant::now();
    let street = Street::build()?;
    let daemon = street.lab.fw_run(POLICY)?;
    compare(&street, &Reach::LONG)?;
    println!("all in {} s", begun.elapsed().as_secs());
    daemon.terminate()
}

fn is_further(address: &str) -> bool {
    [FURTHER, FURTHER6].iter().any(|further| further.split('/').next() == Some(address))
}

/// Further addresses of the host, on no uplink.
const FURTHER: &str = "198.18.7.1/32";
const FURTHER6: &str = "2001:db8:18:7::1/128";

/// The outside client is in `here`. Of what it opens some is served and some not.
pub const POLICY: &str = r#"
[sets]
here = ["198.18.0.0/24", "2001:db8:18::/64", "fe80::/10"]
elsewhere = ["203.0.113.0/24", "2001:db8:99::/64"]

[[allow]]
name = "web"
proto = "tcp"
ports = ["8001-8006", "8013-8016", "8019-8020", "8023-8024", "8027-8028", 8030]

[[allow]]
name = "ours"
proto = "tcp"
ports = ["8007-8009", 8021]
from = ["here"]

[[allow]]
name = "theirs"
proto = "tcp"
ports = [8010, 8022]
from = ["elsewhere"]

[[allow]]
name = "range"
proto = "tcp"
ports = ["8100-8103"]

[[allow]]
name = "host"
proto = "tcp"
ports = ["9001-9005", "9007-9020", 9029]

[[allow]]
name = "datagrams"
proto = "udp"
ports = [5353, 5355, "6000-6002"]

[[allow]]
name = "ping"
proto = "icmp"
"#;
