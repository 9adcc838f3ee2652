//! A host with so many networks and containers that a real dockerd would take an hour to make them.
//!
//! What the kernel shows is real: bridges, a namespace and a process for each container, a veth between them. What Docker's
//! API says of them is told by this process, in the words of Docker 20.10, at once: so what is measured is fw's part alone.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::lab::liar::accept;
use crate::lab::{Lab, Options, wait};

/// A lab without dockerd, and who tells of its inhabitants; gone when dropped.
pub(super) struct Crowd {
    lab: Lab,
    /// Networks and containers so far.
    networks: Cell<usize>,
    containers: Cell<usize>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// How many there are of each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) networks: usize,
    pub(super) containers: usize,
    /// Published, spread over the containers.
    pub(super) ports: usize,
    /// Whether containers have a process and a link; without, Docker alone tells of them.
    pub(super) alive: bool,
}

#[derive(Default)]
struct Shared {
    said: Mutex<Said>,
    /// Open streams of events.
    listeners: Mutex<Vec<UnixStream>>,
    stop: AtomicBool,
}

#[derive(Default)]
struct Said {
    networks: Vec<Value>,
    /// Containers by id.
    containers: BTreeMap<String, Value>,
}

/// Where the API is.
pub(super) const SOCKET: &str = "unix:///run/lab/crowd.sock";

impl Crowd {
    /// Makes them.
    pub(super) fn gather(size: Size, log: &'static str) -> Result<Self> {
        let lab =
            Lab::without_docker(Options { forward_accept: true, fw_log: Some(log), ..Options::default() })?;
        let socket = lab.path(SOCKET.trim_start_matches("unix://"));
        let listener = UnixListener::bind(&socket).context("cannot listen as Docker's API")?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || {
            let shared = Arc::clone(&for_thread);
            accept(&listener, &for_thread.stop, move |client| answer(&client, &shared));
        }));
        let crowd = Self { lab, networks: Cell::default(), containers: Cell::default(), shared, thread };
        crowd.add_networks(size.networks)?;
        let ports = (0..size.containers).map(|number| {
            let ports = (number..size.ports).step_by(size.containers);
            ports.map(|port| FIRST_PORT + port as u16).collect()
        });
        crowd.add_containers(&ports.collect::<Vec<Vec<u16>>>(), size.alive)?;
        Ok(crowd)
    }

    pub(super) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// So many networks more, each with a bridge. Docker does not speak of them until [`Crowd::tell`].
    pub(super) fn add_networks(&self, count: usize) -> Result<()> {
        let new = self.networks.get()..self.networks.get() + count;
        self.networks.set(new.end);
        let mut batch = String::new();
        for number in new.clone() {
            let gateway = address(number, 1);
            write!(
                batch,
                "link add br{number} type bridge\naddress add {gateway}/24 dev br{number}\nlink set br{number} up\n"
            )?;
        }
        self.ip(&batch)?;
        for number in new {
            lock(&self.shared.said).networks.push(network(number));
        }
        Ok(())
    }

    /// Containers more, each with these ports, spread over all networks.
    pub(super) fn add_containers(&self, ports: &[Vec<u16>], alive: bool) -> Result<()> {
        let networks = self.networks.get();
        let new = self.containers.get()..self.containers.get() + ports.len();
        self.containers.set(new.end);
        let pids = if alive { self.processes(ports.len())? } else { vec![0; ports.len()] };
        let mut batch = String::new();
        for (number, pid) in new.clone().zip(&pids).filter(|_| alive) {
            let (bridge, mac) = (number % networks, mac(number));
            write!(
                batch,
                "link add v{number} type veth peer name eth0 address {mac} netns {pid}\n\
                 link set v{number} master br{bridge}\nlink set v{number} up\n"
            )?;
        }
        self.ip(&batch)?;
        let mut said = lock(&self.shared.said);
        for ((number, pid), ports) in new.zip(pids).zip(ports) {
            let container = container(number, networks, pid, ports);
            said.containers.insert(container_id(number), container);
        }
        Ok(())
    }

    /// A container more, which somebody else has made: the network namespace of that name is its own, and its link leads to
    /// the first network.
    pub(super) fn settle_in(&self, namespace: &str, address: Ipv4Addr, mac: &str) -> Result<()> {
        let start = "nsenter --net=/run/netns/$0 sleep infinity </dev/null >/dev/null 2>&1 & echo $!";
        let pid = self.lab.host().run(&["sh", "-ec", start, namespace])?;
        let pid = self.await_networks(pid.trim())?;
        let number = self.containers.get();
        self.containers.set(number + 1);
        let mut container = container(number, self.networks.get(), pid[0], &[]);
        container["NetworkSettings"]["Networks"] = json!({"n0": {
            "NetworkID": network_id(0), "EndpointID": container_id(number), "IPAddress": address.to_string(),
            "IPPrefixLen": 24, "MacAddress": mac,
        }});
        lock(&self.shared.said).containers.insert(container_id(number), container);
        Ok(())
    }

    /// Has Docker tell that something has happened.
    pub(super) fn tell(&self, kind: &str, action: &str) {
        let event =
            json!({"Type": kind, "Action": action, "Actor": {"ID": "0", "Attributes": {}}}).to_string();
        // Who has hung up hears nothing.
        let mut listeners = lock(&self.shared.listeners);
        listeners.retain_mut(|stream| write!(stream, "{:x}\r\n{event}\n\r\n", event.len() + 1).is_ok());
    }

    /// Processes that hold a network namespace each, by their numbers inside the lab.
    fn processes(&self, count: usize) -> Result<Vec<u32>> {
        let said = self.lab.host().script(&format!(
            "for i in $(seq {count}); do unshare -n sleep infinity </dev/null >/dev/null 2>&1 & echo $!; done"
        ))?;
        self.await_networks(&said)
    }

    /// The numbers of these processes, once each is in another network than the host's.
    fn await_networks(&self, said: &str) -> Result<Vec<u32>> {
        let pids: Vec<u32> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let net = |pid: &str| fs::read_link(self.lab.path(&format!("/proc/{pid}/ns/net"))).ok();
        let host = net("1");
        wait::until("every container has a network of its own", Duration::from_mins(5), || {
            pids.iter().all(|pid| net(&pid.to_string()).is_some_and(|net| Some(net) != host)).then_some(())
        })?;
        Ok(pids)
    }

    fn ip(&self, batch: &str) -> Result<()> {
        let file: PathBuf = self.lab.path("/run/lab/batch");
        fs::write(&file, batch)?;
        self.lab.host().run(&["ip", "-batch", "/run/lab/batch"]).map(drop)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for stream in lock(&self.shared.listeners).drain(..) {
            stream.shutdown(std::net::Shutdown::Both).ok();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// An address on a network.
pub(super) fn address(network: usize, host: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a40_0000 + (network << 8 | host) as u32)
}

fn mac(container: usize) -> String {
    let [_, a, b, c] = (container as u32).to_be_bytes();
    format!("02:42:00:{a:02x}:{b:02x}:{c:02x}")
}

fn network_id(number: usize) -> String {
    format!("{number:064x}")
}

fn container_id(number: usize) -> String {
    format!("{:064x}", number + (1 << 32))
}

fn network(number: usize) -> Value {
    json!({
        "Name": format!("n{number}"), "Id": network_id(number), "Driver": "bridge", "Scope": "local",
        "EnableIPv6": false, "Internal": false, "Attachable": false, "Ingress": false, "Labels": {},
        "IPAM": {"Driver": "default", "Options": {}, "Config": [
            {"Subnet": format!("{}/24", address(number, 0)), "Gateway": address(number, 1).to_string()}
        ]},
        "Options": {"com.docker.network.bridge.name": format!("br{number}")},
    })
}

/// As `docker inspect` has it, less what a firewall does not read but for some of its bulk.
fn container(number: usize, networks: usize, pid: u32, ports: &[u16]) -> Value {
    let network = number % networks;
    let (id, address) = (container_id(number), address(network, 2 + number / networks));
    let ports: BTreeMap<String, Value> = ports
        .iter()
        .map(|port| (format!("{port}/tcp"), json!([{"HostIp": "0.0.0.0", "HostPort": port.to_string()}])))
        .collect();
    let exposed: BTreeMap<&String, Value> = ports.keys().map(|port| (port, json!({}))).collect();
    let settings = json!({format!("n{network}"): {
        "NetworkID": network_id(network), "EndpointID": id, "Gateway": self::address(network, 1).to_string(),
        "IPAddress": address.to_string(), "IPPrefixLen": 24, "GlobalIPv6Address": "", "MacAddress": mac(number),
    }});
    json!({
        "Id": id, "Name": format!("/c{number}"), "Path": "server", "Args": ["--listen", "0.0.0.0"],
        "Created": "2026-11-22T12:00:00.000000000Z", "Image": format!("sha256:{}", network_id(7)),
        "State": {"Status": "running", "Running": true, "Pid": pid, "ExitCode": 0},
        "Config": {
            "Hostname": format!("c{number}"), "ExposedPorts": exposed, "Image": "server:latest",
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Labels": {
                "com.docker.compose.project": format!("p{network}"),
                "com.docker.compose.service": format!("s{number}"),
                "com.docker.compose.version": "2.29.1",
                "com.docker.compose.config-hash": network_id(number),
                "com.docker.compose.project.config_files": format!("/srv/p{network}/compose.yaml"),
            },
        },
        "HostConfig": {"NetworkMode": format!("n{network}")},
        "NetworkSettings": {"Ports": ports, "Networks": settings},
    })
}

/// Answers what comes over one connection.
fn answer(mut client: &UnixStream, shared: &Shared) -> Result<()> {
    let mut lines = BufReader::new(client).lines();
    while let Some(request) = lines.next().transpose()? {
        let path = request.split(' ').nth(1).context("a request has a path")?.to_owned();
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        if path.starts_with("/events") {
            write!(
                client,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            )?;
            lock(&shared.listeners).push(client.try_clone()?);
            return Ok(());
        }
        let told = told(&lock(&shared.said), path.split('?').next().unwrap_or(&path));
        let (status, body) =
            told.map_or((404, r#"{"message":"no such thing"}"#.to_owned()), |body| (200, body));
        write!(
            client,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}

fn told(said: &Said, path: &str) -> Option<String> {
    match path {
        "/version" => Some(json!({"Version": "20.10.24", "ApiVersion": "1.41"}).to_string()),
        "/networks" => Some(json!(said.networks).to_string()),
        "/containers/json" => {
            let listed = said.containers.values().map(|container| {
                json!({"Id": container["Id"], "Names": [container["Name"]], "Labels": container["Config"]["Labels"],
                       "NetworkSettings": {"Networks": container["NetworkSettings"]["Networks"]}})
            });
            Some(listed.collect::<Value>().to_string())
        }
        _ => {
            let id = path.strip_prefix("/containers/")?.strip_suffix("/json")?;
            said.containers.get(id).map(Value::to_string)
        }
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first published port.
pub(super) const FIRST_PORT: u16 = 10_000;
