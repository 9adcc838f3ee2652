//! What Podman answers to Docker's questions: version 4.3.1 with netavark, less what is not read.

use super::*;

#[tokio::test]
async fn containers_of_podman_are_on_their_networks() {
    let engine = Engine::start(podman);
    let snapshot = engine.snapshot().await.expect("an engine");
    assert_eq!((snapshot.version.as_str(), &snapshot.swarm), ("4.3.1", &Membership::None));
    let [back, front] = snapshot.networks.as_slice() else { panic!("{:?}", snapshot.networks) };
    assert_eq!((back.name.as_str(), front.name.as_str()), ("back", "front"));
    assert_eq!(front.bridge.as_deref(), Some("br-f4596f4aefe1"), "its bridge is not told");
    assert_eq!(front.gateways, ["10.77.0.1".parse::<IpAddr>().expect("an address")]);
    let [web] = snapshot.containers.as_slice() else { panic!("{:?}", snapshot.containers) };
    assert_eq!((web.name.as_str(), web.pid, web.labels["fw.host"].as_str()), ("web", 129, "deny"));
    let [place] = web.endpoints.as_slice() else { panic!("{:?}", web.endpoints) };
    assert_eq!((&place.network_id, place.endpoint_id.as_str()), (&front.id, ""), "it calls networks by name");
    assert_eq!(place.mac, Some(Mac([0x8e, 0x61, 0x2f, 0x7b, 0x1d, 0x67])));
    assert_eq!(place.addresses, ["10.77.0.2".parse::<IpAddr>().expect("an address")]);
    let port =
        |host: IpAddr| Published { host, protocol: Transport::Tcp, host_port: 8080, container_port: 80 };
    assert_eq!(web.published, [port(Ipv4Addr::UNSPECIFIED.into()), port(Ipv6Addr::UNSPECIFIED.into())]);
}

fn podman(path: &str) -> Reply {
    Reply::Json(
        200,
        match path {
            "/version" => PODMAN.into(),
            "/networks" => PODMAN_NETWORKS.into(),
            "/containers/json" => r#"[{"Id":"9d97352b0d66","Names":["/web"]}]"#.into(),
            _ => WEB.into(),
        },
    )
}

const PODMAN: &str = r#"{"Platform":{"Name":"linux/amd64/debian-12"},"Components":[{"Name":"Podman Engine",
    "Version":"4.3.1","Details":{"APIVersion":"4.3.1","MinAPIVersion":"4.0.0"}}],
    "Version":"4.3.1","ApiVersion":"1.41","MinAPIVersion":"1.24","Os":"linux","Arch":"amd64"}"#;

const PODMAN_NETWORKS: &str = r#"[{"Name":"front","Id":"f4596f4aefe1eaa2b7d2be8d","Scope":"local","Driver":"bridge",
    "EnableIPv6":false,"IPAM":{"Driver":"default","Options":{"driver":"host-local"},
    "Config":[{"Subnet":"10.77.0.0/24","Gateway":"10.77.0.1"}]},"Internal":false,"Options":{},"Labels":{}},
    {"Name":"back","Id":"a934c7982d64b62ef34e4068","Scope":"local","Driver":"bridge",
    "EnableIPv6":false,"IPAM":{"Driver":"default","Options":{"driver":"host-local"},
    "Config":[{"Subnet":"10.89.0.0/24","Gateway":"10.89.0.1"}]},"Internal":false,"Options":{},"Labels":{}}]"#;

const WEB: &str = r#"{"Id":"9d97352b0d66","Name":"/web","State":{"Status":"running","Running":true,"Pid":129},
    "Config":{"Labels":{"fw.host":"deny"},"ExposedPorts":{"80/tcp":{}}},"HostConfig":{"NetworkMode":"bridge"},
    "NetworkSettings":{"Ports":{"80/tcp":[{"HostIp":"","HostPort":"8080"}]},"Networks":{"front":{"IPAMConfig":null,
    "Aliases":["9d97352b0d66"],"NetworkID":"front","EndpointID":"","Gateway":"10.77.0.1","IPAddress":"10.77.0.2",
    "GlobalIPv6Address":"","MacAddress":"8e:61:2f:7b:1d:67"}}}}"#;
