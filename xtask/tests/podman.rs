//! Podman's Docker-compatible API in place of Docker's. Set-up does not install Podman.

use std::net::IpAddr;
use std::time::Duration;

use xtask::lab::{self, HOST, Lab, OUTSIDE, Options, Place, wait, which};

#[test]
fn containers_of_podman_are_filtered_like_docker_s() {
    const TEST: &str = "containers_of_podman_are_filtered_like_docker_s";
    if !lab::available(TEST) {
        return;
    }
    if which("podman").is_none() {
        println!("SKIPPED: {TEST}: missing: podman (packages podman and netavark)");
        return;
    }
    // The lab's dockerd would close FORWARD for everybody else.
    let lab = Lab::start(Options { forward_accept: true, ..Options::default() }).expect("a lab");
    // Podman keeps a cache and its locks there, wherever its storage is.
    lab.host()
        .script("for d in /var/lib /dev/shm; do mount -t tmpfs fwlab $d; done")
        .expect("private folders");
    let podman = |arguments: &str| lab.host().script(&format!("{PODMAN} {arguments}")).expect("podman");
    let service = format!("exec {PODMAN} system service --time 0 {SOCKET} >/run/podman.log 2>&1");
    lab.host().script(&format!("docker -H {} save fwlab | {PODMAN} load", lab::SOCKET)).expect("the image");
    lab.keep_running(lab.host().command("sh").args(["-ec", &service])).expect("its service");
    wait::until("podman answers", Duration::from_secs(20), || {
        lab.host().run(&["docker", "-H", SOCKET, "version"]).ok()
    })
    .expect("its socket");
    podman("network create --subnet 10.77.0.0/24 front");
    podman("network create --subnet 10.78.0.0/24 back");
    let run = |options: &str| {
        let group = format!("--cgroup-parent /{}", lab.name());
        podman(&format!("run -d {group} {options} fwlab tail -f /dev/null"));
    };
    run("--name web --network front --ip 10.77.0.9 -p 8080:80 --label fw.host=deny");
    let place = |name: &str| -> Place {
        let pid = podman(&format!("inspect -f '{{{{.State.Pid}}}}' {name}"));
        lab.place(name, &format!("/proc/{}/ns/net", pid.trim()))
    };
    let web = place("web");
    let _server = web.serve_tcp("0.0.0.0:80", "web").expect("a server");
    let reached = || lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached_at("web");
    assert!(reached(), "before fw");

    let daemon = lab.fw_run_with("", &["--docker", SOCKET]).expect("fw");
    assert!(!reached(), "a published port needs a rule");
    std::fs::write(lab.path("/run/lab/policy.toml"), WEB).expect("a policy");
    lab.fw(&["reload"]).expect("fw reload");
    assert!(reached(), "{:?}", lab.fw_drops());
    // Whose bridge is there only now.
    run("--name other --network back");
    let other = place("other");
    let pings = |from: &Place, to: IpAddr| from.ping(to).expect("a ping").reached();
    wait::until("the new bridge is managed", Duration::from_secs(15), || {
        lab.fw(&["status", "--docker", SOCKET]).ok().filter(|status| status.contains("10.78.0.0/24"))
    })
    .expect("it is seen");
    assert!(!pings(&other, IpAddr::from([10, 77, 0, 9])), "networks are apart");
    assert!(pings(&other, OUTSIDE.into()), "{:?}", lab.fw_drops());
    assert!(pings(&other, IpAddr::from([10, 78, 0, 1])), "its gateway");
    assert!(!pings(&web, IpAddr::from([10, 77, 0, 1])), "by its label");
    daemon.terminate().expect("SIGTERM");
    lab.fw_down().expect("fw down");
    podman("kill --all");
}

const WEB: &str = "[[allow]]\nname = \"web\"\nproto = \"tcp\"\nports = [8080]\n";
const SOCKET: &str = "unix:///run/podman.sock";
/// All its state lies in the lab's own `/run`.
const PODMAN: &str = "podman --root /run/podman/root --runroot /run/podman/runroot --storage-driver vfs \
                      --cgroup-manager cgroupfs --network-config-dir /run/podman/networks --events-backend file";
