//! What a manager and a worker say of their swarm: answers of dockerd 20.10.24, less what is not read.

use super::*;

#[tokio::test]
async fn a_manager_knows_every_node_and_what_services_publish() {
    let engine = Engine::start(manager);
    let snapshot = engine.snapshot().await.expect("a manager");
    assert_eq!(snapshot.swarm, Membership::Member(swarm()));
    let asked = engine.asked.lock().expect("the paths").clone();
    assert!(
        !asked.iter().any(|path| path == "/networks/w1u2ktzqzdal"),
        "its overlays tell no more: {asked:?}"
    );
}

#[tokio::test]
async fn a_worker_knows_the_managers_and_who_shares_an_overlay() {
    let engine = Engine::start(worker);
    let snapshot = engine.snapshot().await.expect("a worker");
    let expected = Swarm {
        manager: false,
        nodes: nodes(&["198.18.0.1", "198.18.0.3"]),
        ingress: BTreeSet::new(),
        ..swarm()
    };
    assert_eq!(snapshot.swarm, Membership::Member(expected));
    let asked = engine.asked.lock().expect("the paths").clone();
    assert!(!asked.iter().any(|path| path == "/nodes" || path == "/services"), "{asked:?}");
}

#[tokio::test]
async fn containers_have_their_place_on_the_bridge_of_the_swarm() {
    let engine = Engine::start(|path| match path {
        "/containers/json" => Reply::Json(200, r#"[{"Id":"aa","Names":["/here"]}]"#.into()),
        "/containers/aa/json" => Reply::Json(
            200,
            r#"{"Id":"aa","Name":"/here","State":{"Running":true,"Pid":7},"NetworkSettings":{"Networks":{
                "mesh":{"NetworkID":"4qvjcnjbae68","EndpointID":"e1","IPAddress":"10.0.1.2"}}}}"#
                .into(),
        ),
        path => manager(path),
    });
    let containers = engine.snapshot().await.expect("a manager").containers;
    let places: Vec<_> = containers[0].endpoints.iter().map(|place| place.network_id.as_str()).collect();
    assert_eq!(places, ["1a4339b31787", "4qvjcnjbae68"]);
    let gateway = &containers[0].endpoints[0];
    assert_eq!(gateway.addresses, ["10.200.1.3".parse::<IpAddr>().expect("an address")]);
    assert_eq!(gateway.mac, Some(Mac([2, 0x42, 10, 200, 1, 3])));
}

/// Who cannot be asked, or does not know, spoils nothing else.
#[tokio::test]
async fn what_is_not_told_is_not_known() {
    let swarm_of = |reply: fn(&str) -> Reply| async move {
        Engine::start(reply).snapshot().await.expect("the rest is told").swarm
    };
    assert_eq!(swarm_of(|path| answer_to(path, "[]")).await, Membership::None, "no trace of a swarm");
    let refused = swarm_of(|path| match path {
        "/info" => Reply::Json(500, "{}".into()),
        path => manager(path),
    });
    assert_eq!(refused.await, Membership::Unknown);
    let silent = swarm_of(|path| match path {
        "/info" => Reply::Silence,
        path => manager(path),
    });
    assert_eq!(silent.await, Membership::Unknown);
    let failed = swarm_of(|path| match path {
        "/info" => Reply::Json(200, MANAGER.replace("active", "error")),
        path => manager(path),
    });
    assert_eq!(failed.await, Membership::Unknown);
    let left = swarm_of(|path| match path {
        "/info" => Reply::Json(
            200,
            r#"{"Swarm":{"NodeID":"","NodeAddr":"","LocalNodeState":"inactive",
            "ControlAvailable":false,"Error":"","RemoteManagers":null}}"#
                .into(),
        ),
        path => manager(path),
    });
    assert_eq!(left.await, Membership::None);
    let without_leader = swarm_of(|path| match path {
        "/nodes" | "/services" => Reply::Json(503, LEADERLESS.into()),
        path => manager(path),
    });
    let known = Swarm { ingress: BTreeSet::new(), complete: false, ..swarm() };
    assert_eq!(without_leader.await, Membership::Member(known), "those of its overlays");
}

/// All managers may have started at once: each has to let in the others that it remembers.
#[tokio::test]
async fn a_node_that_starts_knows_the_managers_that_it_remembers() {
    let engine = Engine::start(|path| match path {
        "/info" => Reply::Json(200, WORKER.replace("active", "pending")),
        path => worker(path),
    });
    let Membership::Member(swarm) = engine.snapshot().await.expect("an engine").swarm else {
        panic!("a member")
    };
    assert!(swarm.manager && !swarm.complete, "{swarm:?}");
    assert!(swarm.nodes.contains(&"198.18.0.1".parse::<IpAddr>().expect("an address")));
}

/// Whose networks are gone from an answer may still be in a swarm.
#[tokio::test]
async fn who_was_in_a_swarm_is_asked_again_without_its_networks() {
    let engine = Engine::start(|path| match path {
        "/networks" => answer_to(path, "[]"),
        path => manager(path),
    });
    let docker = engine.connect().await.expect("an engine");
    assert_eq!(docker.snapshot().await.expect("a snapshot").swarm, Membership::None);
    let asked = docker.minding_swarm(true).snapshot().await.expect("a snapshot").swarm;
    assert_eq!(asked, Membership::Member(swarm()));
}

fn manager(path: &str) -> Reply {
    Reply::Json(
        200,
        match path {
            "/info" => MANAGER.into(),
            "/nodes" => NODES.into(),
            "/services" => SERVICES.into(),
            "/networks" => SWARM_NETWORKS.into(),
            "/networks/1a4339b31787" => GATEWAY.into(),
            "/networks/w1u2ktzqzdal" => INGRESS.into(),
            "/version" => VERSION.into(),
            _ => "[]".into(),
        },
    )
}

fn worker(path: &str) -> Reply {
    match path {
        "/info" => Reply::Json(200, WORKER.into()),
        "/nodes" | "/services" => {
            Reply::Json(503, "{\"message\":\"This node is not a swarm manager.\"}".into())
        }
        path => manager(path),
    }
}

fn swarm() -> Swarm {
    let exposed = |protocol, port| Exposed { protocol, port };
    Swarm {
        manager: true,
        nodes: nodes(&["198.18.0.2", "198.18.0.3"]),
        data_port: 4789,
        control_ports: BTreeSet::from([2377]),
        ingress: BTreeSet::from([exposed(Transport::Tcp, 8090), exposed(Transport::Udp, 8053)]),
        complete: true,
    }
}

fn nodes(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().expect("an address")).collect()
}

const MANAGER: &str = r#"{"Swarm":{"NodeID":"tqxrhgtwkiqp","NodeAddr":"198.18.0.1","LocalNodeState":"active",
    "ControlAvailable":true,"Error":"","RemoteManagers":[{"NodeID":"tqxrhgtwkiqp","Addr":"198.18.0.1:2377"}],
    "Nodes":2,"Managers":1,"Cluster":{"ID":"7weohzuv3rr5","Version":{"Index":10},"DataPathPort":4789}}}"#;

const WORKER: &str = r#"{"Swarm":{"NodeID":"vfqupilvpr8n","NodeAddr":"198.18.0.2","LocalNodeState":"active",
    "ControlAvailable":false,"Error":"","RemoteManagers":[{"NodeID":"tqxrhgtwkiqp","Addr":"198.18.0.1:2377"}]}}"#;

/// The second one is down; the third is a manager that does not say where it is seen.
const NODES: &str = r#"[{"ID":"tqxrhgtwkiqp","Status":{"State":"ready","Addr":"198.18.0.1"},
    "ManagerStatus":{"Leader":true,"Reachability":"reachable","Addr":"198.18.0.1:2377"}},
    {"ID":"vfqupilvpr8n","Spec":{"Labels":{},"Role":"worker","Availability":"active"},
    "Status":{"State":"down","Addr":"198.18.0.2"}},
    {"ID":"4j7uafr5n3ca","Status":{"State":"ready","Addr":"0.0.0.0"},
    "ManagerStatus":{"Reachability":"reachable","Addr":"198.18.0.3:2377"}}]"#;

const SERVICES: &str = r#"[{"ID":"71bulr1q5kw3","Endpoint":{"Ports":[
    {"Protocol":"tcp","TargetPort":80,"PublishedPort":8090,"PublishMode":"ingress"},
    {"Protocol":"udp","TargetPort":53,"PublishedPort":8053,"PublishMode":"ingress"}]}},
    {"ID":"jszpqzquev92","Endpoint":{"Ports":[
    {"Protocol":"tcp","TargetPort":80,"PublishedPort":8081,"PublishMode":"host"}]}}, {"ID":"x","Endpoint":{}}]"#;

const LEADERLESS: &str =
    r#"{"message":"rpc error: code = Unknown desc = The swarm does not have a leader."}"#;

const SWARM_NETWORKS: &str = r#"[{"Name":"ingress","Id":"w1u2ktzqzdal","Scope":"swarm","Driver":"overlay",
    "EnableIPv6":false,"IPAM":{"Config":[{"Subnet":"10.0.0.0/24","Gateway":"10.0.0.1"}]},"Internal":false},
    {"Name":"docker_gwbridge","Id":"1a4339b31787","Scope":"local","Driver":"bridge","EnableIPv6":false,
    "IPAM":{"Config":[{"Subnet":"10.200.1.0/24","Gateway":"10.200.1.1"}]},"Internal":false,"Options":{
    "com.docker.network.bridge.enable_icc":"false","com.docker.network.bridge.name":"docker_gwbridge"}}]"#;

const GATEWAY: &str = r#"{"Name":"docker_gwbridge","Id":"1a4339b31787","Driver":"bridge","Containers":{
    "aa":{"Name":"gateway_a1eccbf06f16","EndpointID":"b932c69c5fd9","MacAddress":"02:42:0a:c8:01:03",
        "IPv4Address":"10.200.1.3/24","IPv6Address":""},
    "ingress-sbox":{"Name":"gateway_ingress-sbox","EndpointID":"2571463531c4","MacAddress":"02:42:0a:c8:01:02",
        "IPv4Address":"10.200.1.2/24","IPv6Address":""}}}"#;

const INGRESS: &str = r#"{"Name":"ingress","Id":"w1u2ktzqzdal","Scope":"swarm","Driver":"overlay","Containers":{},
    "Peers":[{"Name":"9262bc4ad83a","IP":"198.18.0.1"},{"Name":"eb701b78e53f","IP":"198.18.0.2"},
    {"Name":"0c154862034e","IP":"198.18.0.3"}]}"#;
