//! The Debian packages that the lab needs, and how to install docker.io without letting it touch the host.

use std::fmt;

use anyhow::bail;

use super::{install, is_root};
use crate::workspace;

/// A package, a program of it by which it is known to be there, and what the lab does with it.
struct Package {
    name: &'static str,
    program: &'static str,
    why: &'static str,
}

const PACKAGES: &[Package] = &[
    Package {
        name: "docker.io",
        program: "dockerd",
        why: "the Docker host under test, in a network namespace",
    },
    Package { name: "iptables", program: "iptables-nft-save", why: "Docker's rules, and fw's beside them" },
    Package { name: "nftables", program: "nft", why: "what those rules have become" },
    Package { name: "bpftool", program: "bpftool", why: "maps, links and programs as the kernel sees them" },
    Package { name: "iproute2", program: "tc", why: "namespaces, devices, routes" },
    Package {
        name: "busybox-static",
        program: "busybox",
        why: "the containers' only program; needs no registry",
    },
    Package { name: "tcpdump", program: "tcpdump", why: "what went over a wire when a test fails" },
    Package { name: "ipset", program: "ipset", why: "sets that iptables asks, to measure fw against" },
    Package { name: "conntrack", program: "conntrack", why: "connections that NAT knows" },
    Package {
        name: "nmap",
        program: "nmap",
        why: "what a scan from outside finds, beside what fw says is reachable",
    },
    Package {
        name: "prometheus",
        program: "promtool",
        why: "fw's metrics, alerts and dashboard, read by the real one",
    },
];

/// Installs the packages named in its arguments without starting or enabling what `SERVICES` lists.
///
/// Debian starts a package's service at installation unless `/usr/sbin/policy-rc.d` answers 101. A file that is
/// already there is asked and left alone. A dockerd started here would write its rules into this host's firewall,
/// switch forwarding on and set the policy of FORWARD to DROP; and an enabled one would do so at the next boot.
const INSTALL: &str = r#"set -eu
policy=/usr/sbin/policy-rc.d
if [ -z "$SERVICES" ]; then
    :
elif [ -e "$policy" ]; then
    answer=0
    "$policy" docker start || answer=$?
    if [ "$answer" != 101 ]; then
        echo "$policy is this machine's own and lets services start: install docker.io yourself" >&2
        exit 1
    fi
else
    trap 'rm -f "$policy"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"
for service in $SERVICES; do
    if command -v systemctl >/dev/null; then
        systemctl --quiet disable "$service"
    elif command -v update-rc.d >/dev/null; then
        update-rc.d "${service%.*}" disable
    fi
done
"#;

/// Installs the packages whose programs are missing.
pub(super) fn ensure() -> anyhow::Result<()> {
    let missing: Vec<&Package> = PACKAGES.iter().filter(|package| !package.is_there()).collect();
    if missing.is_empty() {
        println!("setup: programs of the lab are there ({})", list(PACKAGES, |package| package.program));
        return Ok(());
    }
    for package in &missing {
        println!("setup: {} is missing ({}): {}", package.program, package.name, package.why);
    }
    let names = list(missing.iter().copied(), |package| package.name);
    if workspace::find("apt-get").is_none() {
        bail!(
            "the lab needs the programs above, and this is no Debian: install them, then try again (Debian: {names})"
        );
    }
    if !is_root() {
        bail!(
            "the lab needs the programs above; as root: apt-get install -y --no-install-recommends {names}"
        );
    }
    let services = new_services(&missing);
    if !services.is_empty() {
        let list = services.join(", ");
        println!("setup: installed for the lab alone, neither started nor enabled on this host: {list}");
        println!("       (to make it this host's Docker: systemctl enable --now docker)");
    }
    install(
        "the package lists",
        "apt-get install reads them",
        "some seconds",
        workspace::command("apt-get").arg("update"),
    )?;
    let mut shell = workspace::command("sh");
    shell.args(["-c", INSTALL, "install"]).args(missing.iter().map(|package| package.name));
    shell.env("SERVICES", services.join(" "));
    let what = format!("packages {names}");
    let started = std::time::Instant::now();
    println!("setup: apt-get install -y --no-install-recommends {names} (about a minute)");
    workspace::run(&mut shell)
        .map_err(|_| anyhow::anyhow!("cannot install {what}; see apt's words above"))?;
    println!("setup: installed {what} in {:.0} s", started.elapsed().as_secs_f32());
    Ok(())
}

impl Package {
    fn is_there(&self) -> bool {
        workspace::find(self.program).is_some()
    }
}

/// The services that installing `missing` would bring: containerd may serve another master already.
fn new_services(missing: &[&Package]) -> Vec<&'static str> {
    let brings = |program| missing.iter().any(|package| package.program == program);
    let mut services = Vec::new();
    if brings("dockerd") {
        services.extend(["docker.service", "docker.socket"]);
        if workspace::find("containerd").is_none() {
            services.push("containerd.service");
        }
    }
    if brings("promtool") {
        services.push("prometheus.service");
    }
    services
}

fn list<'a>(packages: impl IntoIterator<Item = &'a Package>, part: fn(&Package) -> &'static str) -> String {
    packages.into_iter().map(part).collect::<Vec<_>>().join(" ")
}

/// The same as commands to type.
pub(super) struct Equivalent;

impl fmt::Display for Equivalent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "# For the demo and the tests that need root. As root, on Debian and its kin:")?;
        writeln!(formatter, "apt-get update")?;
        let names = list(PACKAGES, |package| package.name);
        writeln!(formatter, "apt-get install -y --no-install-recommends {names}")?;
        writeln!(
            formatter,
            "#   Leave out docker.io where a `dockerd` is installed. By hand, its package starts dockerd,"
        )?;
        writeln!(
            formatter,
            "#   which writes firewall rules; `cargo xtask setup` keeps it and Prometheus from that. Afterwards:"
        )?;
        writeln!(
            formatter,
            "#   systemctl disable --now docker.service docker.socket containerd.service prometheus.service"
        )?;
        writeln!(formatter, "# Elsewhere, the packages that bring these programs:")?;
        for package in PACKAGES {
            writeln!(formatter, "#   {:<18} {}", package.program, package.why)?;
        }
        writeln!(
            formatter,
            "# Without root: `cargo xtask test` runs all but the tests that need it, and names those."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_present_dockerd_brings_no_service() {
        let own = ["docker.io", "prometheus"];
        let without_docker: Vec<&Package> =
            PACKAGES.iter().filter(|package| !own.contains(&package.name)).collect();
        assert_eq!(new_services(&without_docker), [""; 0]);
        let all: Vec<&Package> = PACKAGES.iter().collect();
        assert_eq!(new_services(&all)[..2], ["docker.service", "docker.socket"]);
    }
}
