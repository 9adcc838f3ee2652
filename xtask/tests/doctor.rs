//! `fw doctor`: silent on a clean host; each fault alone is found by its name, with a repair that mends it.

use std::any::Any;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::Value;
use xtask::lab::{self, Lab, Options, SOCKET, wait};

#[test]
fn every_fault_is_found_alone_and_repaired() {
    if !lab::available("every_fault_is_found_alone_and_repaired") {
        return;
    }
    let options = Options { before_docker: OF_ITS_OWN, ..Options::default() };
    let lab = Lab::start(options).expect("a lab");
    lab.network("a", &[]).expect("a network");
    lab.container("a1", &["--network", "a", "-p", "8080:80"]).expect("a container");
    write(&lab, POLICY);

    clean(&lab, "before fw has ever run");
    for fault in before() {
        meet(&lab, &fault);
    }
    let daemon = lab.fw_run(POLICY).expect("fw");
    clean(&lab, "with fw in force");
    for fault in within() {
        meet(&lab, &fault);
    }
    daemon.terminate().expect("SIGTERM");
    found_alone(&lab, "daemon-absent", "no daemon is running");
    lab.fw_down().expect("fw down");
    clean(&lab, "after fw down");
}

/// A way to weaken or confuse a host.
struct Fault {
    name: &'static str,
    /// What the finding says, in part.
    found: &'static str,
    /// Makes it; what is returned is held until the fault is found.
    make: fn(&Lab) -> Box<dyn Any>,
    repair: Repair,
    /// Takes away what the repair leaves.
    after: fn(&Lab),
}

enum Repair {
    /// As it is printed; comments left out.
    Printed,
    /// What is printed would be harm, or needs a person.
    ByHand(fn(&Lab)),
}
use Repair::{ByHand, Printed};

fn shell(lab: &Lab, lines: &str) -> Box<dyn Any> {
    lab.host().script(lines).expect("a fault is made");
    Box::new(())
}

/// Faults of a host on which nothing of fw is in force.
fn before() -> Vec<Fault> {
    vec![
        Fault {
            name: "icc-unguarded",
            found: "networks without icc rely on it: apart",
            make: |lab| {
                lab.network("apart", &["-o", "com.docker.network.bridge.enable_icc=false"])
                    .expect("a network");
                lab.set_bridge_netfilter(false).expect("a setting");
                Box::new(())
            },
            repair: Printed,
            after: |lab| drop(lab.docker(&["network", "rm", "apart"]).expect("no network")),
        },
        Fault {
            name: "ipv6-open",
            found: "containers on six",
            make: |lab| {
                lab.network("six", &["--ipv6", "--subnet=2001:db8:6::/64"]).expect("a network");
                Box::new(())
            },
            repair: ByHand(|lab| drop(lab.docker(&["network", "rm", "six"]).expect("no network"))),
            after: |_| {},
        },
        Fault {
            name: "policy-invalid",
            found: "policy.toml:1",
            make: |lab| {
                write(lab, "mode = \"maybe\"\n");
                Box::new(())
            },
            repair: ByHand(|lab| write(lab, POLICY)),
            after: |_| {},
        },
    ]
}

/// Faults of a host on which fw is in force.
fn within() -> Vec<Fault> {
    [rules(), files(), devices(), running()].into_iter().flatten().collect()
}

fn fault(
    name: &'static str,
    found: &'static str,
    make: fn(&Lab) -> Box<dyn Any>,
    repair: Repair,
    after: fn(&Lab),
) -> Fault {
    Fault { name, found, make, repair, after }
}

/// Of rules that others have written.
fn rules() -> Vec<Fault> {
    vec![
        fault(
            "two-flavours",
            "both flavours of iptables hold rules",
            |lab| {
                shell(lab, "iptables-legacy -A INPUT -s 192.0.2.9 -j DROP; iptables-legacy -P FORWARD DROP")
            },
            Printed,
            |_| {},
        ),
        fault(
            "firewalld",
            "its rules stand",
            |lab| shell(lab, "nft add table inet firewalld"),
            ByHand(|lab| drop(shell(lab, "nft delete table inet firewalld"))),
            |_| {},
        ),
        fault(
            "mark-collision",
            "PREROUTING -s 192.0.2.9/32 -j MARK --set-xmark 0x1000000/0x1000000",
            |lab| {
                shell(
                    lab,
                    "iptables -t mangle -A PREROUTING -s 192.0.2.9 -j MARK --set-xmark 0x1000000/0x1000000",
                )
            },
            ByHand(|lab| drop(shell(lab, "iptables -t mangle -F"))),
            |_| {},
        ),
        fault(
            "mark-collision",
            "ip rule 77: fwmark 0x2000000/0xf000000",
            |lab| shell(lab, "ip rule add fwmark 0x2000000/0xf000000 table 99 priority 77"),
            ByHand(|lab| drop(shell(lab, "ip rule del priority 77"))),
            |_| {},
        ),
        fault(
            "mark-collision",
            "inet mine: meta mark set 0x00000001",
            |lab| {
                shell(
                    lab,
                    "nft 'add table inet mine; add chain inet mine c; add rule inet mine c meta mark set 1'",
                )
            },
            ByHand(|lab| drop(shell(lab, "nft delete table inet mine"))),
            |_| {},
        ),
        fault(
            "docker-user-blocked",
            "past `-A DOCKER-USER -j DROP`",
            |lab| shell(lab, "iptables -I DOCKER-USER -j DROP"),
            Printed,
            |_| {},
        ),
    ]
}

/// Of files.
fn files() -> Vec<Fault> {
    vec![
        fault(
            "rules-persisted",
            "netfilter-persistent.service loads it at boot",
            |lab| {
                shell(
                    lab,
                    "mkdir -p /etc/iptables; iptables-save >/etc/iptables/rules.v4; \
                     ln -s /nowhere /etc/systemd/system/multi-user.target.wants/netfilter-persistent.service",
                )
            },
            Printed,
            |lab| {
                // What is left is a file that iptables takes.
                lab.host()
                    .script(
                        "iptables-restore --test /etc/iptables/rules.v4; \
                         rm /etc/systemd/system/multi-user.target.wants/netfilter-persistent.service",
                    )
                    .expect("a file of rules");
            },
        ),
        fault(
            "ruleset-flushed",
            "/etc/nftables.conf begins with `flush ruleset`",
            |lab| {
                shell(
                    lab,
                    "printf '#!/usr/sbin/nft -f\\n\\nflush ruleset\\n\\ntable inet mine {\\n}\\n' >/etc/nftables.conf; \
                     ln -s /nowhere /etc/systemd/system/multi-user.target.wants/nftables.service",
                )
            },
            Printed,
            |_| {},
        ),
        fault(
            "ufw-enabled",
            "/etc/ufw/ufw.conf",
            |lab| shell(lab, "mkdir -p /etc/ufw; echo ENABLED=yes >/etc/ufw/ufw.conf"),
            ByHand(|lab| drop(shell(lab, "echo ENABLED=no >/etc/ufw/ufw.conf"))),
            |_| {},
        ),
        fault(
            "uplink-absent",
            "names eth9",
            |lab| {
                write(lab, &format!("{POLICY}[uplink]\ninterfaces = [\"eth0\", \"eth9\"]\n"));
                Box::new(())
            },
            ByHand(|lab| write(lab, POLICY)),
            |_| {},
        ),
        fault(
            "policy-permissions",
            "mode 666",
            |lab| {
                let everybody = fs::Permissions::from_mode(0o666);
                fs::set_permissions(lab.path(FILE), everybody).expect("a mode");
                Box::new(())
            },
            Printed,
            |_| {},
        ),
        fault(
            "selector-unmatched",
            "Docker knows no network `nowhere`",
            |lab| {
                write(lab, &format!("{POLICY}[networks.nowhere]\nhost = \"deny\"\n"));
                Box::new(())
            },
            ByHand(|lab| write(lab, POLICY)),
            |_| {},
        ),
    ]
}

/// Of devices and of what the kernel is told.
fn devices() -> Vec<Fault> {
    vec![
        fault(
            "bridge-netfilter",
            "virbr0 (2)",
            |lab| {
                shell(
                    lab,
                    "ip link add virbr0 type bridge; ip link add vm1 type veth peer name vm2; for p in vm1 vm2; do ip link set $p master virbr0; done",
                )
            },
            Printed,
            |lab| {
                lab.host().script("ip link del virbr0; ip link del vm1").expect("no bridge");
                lab.set_bridge_netfilter(true).expect("a setting");
            },
        ),
        fault(
            "uplink-uncovered",
            "eth1 has 203.0.113.1, and is no uplink",
            |lab| {
                shell(
                    lab,
                    "ip link add eth1 type veth peer name eth1r; ip addr add 203.0.113.1/24 dev eth1; ip link set eth1 up",
                )
            },
            ByHand(|lab| drop(shell(lab, "ip link del eth1"))),
            |_| {},
        ),
        fault(
            "route-localnet",
            "route_localnet = 1 on eth0",
            |lab| shell(lab, "echo 1 >/proc/sys/net/ipv4/conf/eth0/route_localnet"),
            Printed,
            |_| {},
        ),
        fault(
            "accept-ra",
            "br-a",
            |lab| shell(lab, "echo 2 >/proc/sys/net/ipv6/conf/br-a/accept_ra"),
            Printed,
            |_| {},
        ),
        fault(
            "forwarding-off",
            "net.ipv4.ip_forward = 0",
            |lab| shell(lab, "echo 0 >/proc/sys/net/ipv4/ip_forward"),
            Printed,
            |_| {},
        ),
        Fault {
            name: "program-foreign",
            found: "eth0: an XDP program",
            make: |lab| Box::new(lab.host().attach_xdp("eth0").expect("a program")),
            // It goes with its owner, who is held while it is looked for.
            repair: ByHand(|_| {}),
            after: |_| {},
        },
    ]
}

/// Of what runs.
fn running() -> Vec<Fault> {
    vec![
        fault(
            "container-powerful",
            "container strong can take fw's programs and rules away",
            |lab| {
                lab.container("strong", &["--network", "host"]).expect("a container");
                Box::new(())
            },
            ByHand(|lab| drop(lab.docker(&["rm", "-f", "strong"]).expect("no container"))),
            |_| {},
        ),
        fault(
            "daemon-halted",
            "the daemon is halted",
            |lab| shell(lab, "kill -STOP $(cat /run/lab/fw.pid)"),
            Printed,
            |_| {},
        ),
    ]
}

#[track_caller]
fn meet(lab: &Lab, fault: &Fault) {
    let held = (fault.make)(lab);
    let finding = found_alone(lab, fault.name, fault.found);
    drop(held);
    match &fault.repair {
        Printed => {
            let lines = finding["repair"].as_array().expect("lines").iter().filter_map(Value::as_str);
            let lines: Vec<String> = lines.map(|line| line.replace("sudo ", "")).collect();
            lab.host().script(&format!("cd /run/lab\n{}", lines.join("\n"))).expect("the repair as printed");
        }
        ByHand(mend) => mend(lab),
    }
    clean(lab, fault.name);
    (fault.after)(lab);
}

/// Waits until nothing weakens or confuses but for a finding of this name, and that is found.
#[track_caller]
fn found_alone(lab: &Lab, name: &str, part: &str) -> Value {
    let mut last = Value::Null;
    let found = wait::until(name, Duration::from_secs(20), || {
        let (code, report) = doctor(lab);
        last = report;
        let grave = grave(&last);
        let alone = !grave.is_empty() && grave.iter().all(|finding| finding["name"] == name);
        let said =
            grave.iter().find(|finding| finding["found"].as_str().is_some_and(|text| text.contains(part)));
        (alone && code == 1).then(|| said.copied().cloned()).flatten()
    });
    let found = found.unwrap_or_else(|error| panic!("{error:#}: {last:#}"));
    assert!(found["repair"].as_array().is_some_and(|lines| !lines.is_empty()), "{found:#}");
    for field in ["why", "risk"] {
        assert!(found[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {found:#}");
    }
    found
}

/// Waits until nothing weakens or confuses: devices come and go, and the daemon follows.
#[track_caller]
fn clean(lab: &Lab, when: &str) {
    let mut last = Value::Null;
    wait::until("nothing weakens or confuses", Duration::from_secs(20), || {
        let (code, report) = doctor(lab);
        last = report;
        let of_machine = names(&last).any(|name| name == OF_MACHINE);
        let says_so = (code != 0) == of_machine && last["clean"] != of_machine;
        (says_so && grave(&last).is_empty()).then_some(())
    })
    .unwrap_or_else(|error| panic!("{when}: {error:#}: {last:#}"));
}

fn grave(report: &Value) -> Vec<&Value> {
    let findings = report["findings"].as_array().expect("a list of findings");
    let grave = findings.iter().filter(|finding| finding["severity"] != "notes");
    grave.filter(|finding| finding["name"] != OF_MACHINE).collect()
}

fn names(report: &Value) -> impl Iterator<Item = &str> {
    report["findings"].as_array().into_iter().flatten().filter_map(|finding| finding["name"].as_str())
}

fn doctor(lab: &Lab) -> (i32, Value) {
    let arguments = ["doctor", "--json", "--docker", SOCKET, "--policy", FILE];
    let output = lab.fw_command(&arguments).expect("a command").output().expect("fw runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let report = serde_json::from_str(&text);
    let report = report.unwrap_or_else(|error| {
        panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap_or(-1), report)
}

fn write(lab: &Lab, policy: &str) {
    fs::write(lab.path(FILE), policy).expect("a policy");
}

/// A machine whose kernel lacks `nft_meta_bridge` has a fault of its own, as long as there is a network without icc.
const OF_MACHINE: &str = "no-backstop";
const FILE: &str = "/run/lab/policy.toml";
const POLICY: &str = "[[allow]]\nname = \"ssh and web\"\nproto = \"tcp\"\nports = [22, 8080]\n";

/// The lab's host has an /etc of its own, with none of the machine's firewalls in it.
const OF_ITS_OWN: &str = "
cp -a /etc /run/lab/etc
mount --bind /run/lab/etc /etc
rm -rf /etc/iptables /etc/ufw /etc/sysconfig /etc/nftables.conf /etc/docker/daemon.json
cd /etc/systemd/system
mkdir -p multi-user.target.wants
for s in fw netfilter-persistent iptables ip6tables nftables firewalld ufw; do rm -f *.wants/$s.service *.requires/$s.service $s.service; done
";
