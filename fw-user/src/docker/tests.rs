//! How failures of an engine look from outside, against sockets that stand in for one.

mod podman;
mod swarm;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::*;

#[tokio::test]
async fn each_wrong_socket_is_named() {
    let dir = TempDir::new().expect("a directory");
    let at = |name: &str| dir.path().join(name).display().to_string();
    for url in
        ["", "docker.sock", "npipe:////./pipe/docker", "https://host:2376", "tcp://", "unix://relative"]
    {
        assert!(matches!(refused(url).await, DockerError::Url { .. }), "{url}");
    }
    assert!(matches!(refused(&at("none")).await, DockerError::Absent { .. }));
    assert!(matches!(refused(&format!("unix://{}", at("none"))).await, DockerError::Absent { .. }));

    std::fs::write(at("file"), "").expect("a file");
    assert!(matches!(refused(&at("file")).await, DockerError::NotASocket { kind: "file", .. }));
    assert!(matches!(refused(&at("file/below")).await, DockerError::Absent { .. }));
    let folder = dir.path().display().to_string();
    assert!(matches!(refused(&folder).await, DockerError::NotASocket { kind: "directory", .. }));
    assert!(matches!(refused("/dev/null").await, DockerError::NotASocket { kind: "device", .. }));

    drop(UnixListener::bind(at("stale")).expect("a socket"));
    assert!(matches!(refused(&at("stale")).await, DockerError::Refused { .. }));
}

#[test]
fn a_socket_that_belongs_to_others_is_a_matter_of_permission() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let dir = TempDir::new().expect("a directory");
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("an open directory");
    let path = dir.path().join("docker.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("a closed socket");
    // The user of file access belongs to a thread, and this one ends with the test.
    let seen = std::thread::spawn(move || {
        nix::unistd::setfsuid(65534.into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(refused(&path.display().to_string()))
    });
    let seen = seen.join().expect("an answer");
    assert!(matches!(seen, DockerError::Permission { .. }), "{seen}");
}

#[tokio::test]
async fn what_does_not_speak_the_api_is_not_docker() {
    let engine = Engine::start(|_| Reply::Raw("SSH-2.0-OpenSSH_9.2\r\n\r\n"));
    assert!(matches!(engine.refused().await, DockerError::NotDocker { .. }), "{}", engine.refused().await);
    let engine = Engine::start(|_| Reply::Json(404, "{\"message\":\"page not found\"}".into()));
    assert!(matches!(engine.refused().await, DockerError::NotDocker { .. }));
    let engine = Engine::start(|_| Reply::Json(200, "<html>".into()));
    assert!(matches!(engine.refused().await, DockerError::NotDocker { .. }));
    let engine = Engine::start(|_| Reply::Json(200, "{}".into()));
    assert!(matches!(engine.refused().await, DockerError::NotDocker { .. }));
    let engine = Engine::start(|_| Reply::Json(200, VERSION.replace("1.41", "1.40")));
    let seen = engine.refused().await.to_string();
    assert_eq!(
        seen,
        "docker 20.10.24 speaks API 1.40 at most, fw needs 1.41: upgrade to docker 20.10 or later"
    );
}

#[tokio::test]
async fn an_engine_that_is_silent_runs_into_the_deadline() {
    let engine = Engine::start(|_| Reply::Silence);
    assert!(matches!(engine.refused().await, DockerError::Timeout { .. }));
}

#[tokio::test]
async fn an_engine_without_containers_is_not_an_engine_that_fails() {
    let engine = Engine::start(|path| answer_to(path, "[]"));
    let snapshot = engine.snapshot().await.expect("an empty host");
    assert!(snapshot.networks.len() == 1 && snapshot.containers.is_empty());

    for broken in ["", "null", "{}", "[{}]"] {
        let engine = Engine::start(move |path| answer_to(path, broken));
        let seen = engine.snapshot().await.expect_err("an error");
        assert!(matches!(seen, DockerError::Answer { .. }), "{broken}: {seen}");
    }
    for broken in ["", "null", "{}", "[]", "[{}]"] {
        let engine = Engine::start(move |path| match path {
            "/networks" => Reply::Json(200, broken.into()),
            other => answer_to(other, "[]"),
        });
        let seen = engine.snapshot().await.expect_err("an error");
        assert!(matches!(seen, DockerError::Answer { .. }), "{broken}: {seen}");
    }
    let engine = Engine::start(|path| match path {
        "/containers/json" => Reply::Json(500, "{\"message\":\"no space left\"}".into()),
        other => answer_to(other, "[]"),
    });
    let seen = engine.snapshot().await.expect_err("an error");
    assert!(matches!(&seen, DockerError::Refusal { status: 500, message, .. } if message == "no space left"));
    let engine = Engine::start(|path| match path {
        "/containers/json" => Reply::Raw(""),
        other => answer_to(other, "[]"),
    });
    assert!(matches!(engine.snapshot().await, Err(DockerError::Broken { .. })));
}

/// Docker writes these fields always; without them a network would be laxer than it is.
#[tokio::test]
async fn a_network_with_a_field_missing_is_an_error() {
    for field in [r#""Driver":"host","#, r#""EnableIPv6":false,"#, r#""Internal":false,"#] {
        let lacking = NETWORKS.replace(field, "");
        assert_ne!(lacking, NETWORKS);
        let engine = Engine::start(move |path| match path {
            "/networks" => Reply::Json(200, lacking.clone()),
            other => answer_to(other, "[]"),
        });
        let seen = engine.snapshot().await.expect_err("an error");
        assert!(matches!(seen, DockerError::Answer { .. }), "{field}: {seen}");
    }
    let engine = Engine::start(|path| match path {
        "/containers/json" => Reply::Json(200, LIST.into()),
        path if path.starts_with("/containers/") => {
            Reply::Json(200, r#"{"Id":"bb","State":{},"NetworkSettings":{}}"#.into())
        }
        other => answer_to(other, "[]"),
    });
    assert!(matches!(engine.snapshot().await, Err(DockerError::Answer { .. })), "it may run or not");
}

#[tokio::test]
async fn containers_that_vanish_are_left_out_and_those_that_hang_are_taken_from_the_list() {
    let engine = Engine::start(|path| match path {
        "/containers/json" => Reply::Json(200, LIST.into()),
        "/containers/aa/json" => Reply::Json(404, "{\"message\":\"no such container\"}".into()),
        "/containers/bb/json" => Reply::Json(
            200,
            "{\"Id\":\"bb\",\"State\":{\"Running\":false,\"Pid\":0},\"NetworkSettings\":{}}".into(),
        ),
        "/containers/cc/json" => Reply::Silence,
        other => answer_to(other, "[]"),
    });
    let snapshot = engine.snapshot().await.expect("what is known");
    let [stuck] = snapshot.containers.as_slice() else { panic!("{:?}", snapshot.containers) };
    assert_eq!((stuck.id.as_str(), stuck.name.as_str(), stuck.pid), ("cc", "stuck", 0));
    assert_eq!(stuck.labels["fw.host"], "deny");
    assert_eq!(stuck.endpoints[0].mac, Some(Mac([2, 0x42, 172, 18, 0, 2])));
    assert_eq!(stuck.endpoints[0].addresses, ["172.18.0.2".parse::<IpAddr>().expect("an address")]);
    let published = Published {
        host: Ipv4Addr::UNSPECIFIED.into(),
        protocol: Transport::Tcp,
        host_port: 8080,
        container_port: 80,
    };
    assert_eq!(stuck.published, [published]);
}

#[tokio::test]
async fn an_engine_behind_tcp_is_asked_likewise() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("tcp://{}", listener.local_addr().expect("its address"));
    let serving = tokio::spawn(async move {
        let (reply, log) = (Arc::new(|path: &str| answer_to(path, "[]")), Arc::default());
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, Arc::clone(&reply), Arc::clone(&log)));
        }
    });
    let docker = Docker::connect_within(&url, PATIENCE).await.expect("an engine");
    docker.snapshot().await.expect("an empty host");
    serving.abort();
    let _ = serving.await;
    assert!(matches!(docker.snapshot().await, Err(DockerError::Unreachable { .. })));
}

/// The client joins paths to its base so that the version in the base is lost; each engine then answers
/// with the newest API it has, and no version has to be agreed on. Should that change, this test tells.
#[tokio::test]
async fn questions_name_no_version_of_the_api() {
    let engine = Engine::start(|path| answer_to(path, "[]"));
    engine.snapshot().await.expect("an empty host");
    let asked = engine.asked.lock().expect("the paths").clone();
    assert_eq!(asked, ["/version", "/version", "/networks", "/containers/json"]);
}

#[tokio::test]
async fn events_end_with_the_connection_and_odd_ones_wake_too() {
    let engine = Engine::start(|path| match path {
        "/events" => Reply::Json(200, "{\"Type\":\"of the future\"}\n".into()),
        other => answer_to(other, "[]"),
    });
    let docker = engine.connect().await.expect("an engine");
    let mut events = docker.events();
    assert_eq!(events.next().await.ok(), Some(Wake));
    assert!(matches!(events.next().await, Err(DockerError::EventsEnded { .. })));
}

#[tokio::test]
async fn networks_that_docker_says_to_have_removed_are_remembered() {
    let engine = Engine::start(|path| match path {
        "/events" => Reply::Json(200, REMOVALS.into()),
        other => answer_to(other, "[]"),
    });
    let docker = engine.connect().await.expect("an engine");
    let mut events = docker.events();
    while events.next().await.is_ok() {}
    assert_eq!(events.removed_networks(), BTreeSet::from(["n7".to_owned()]));
    assert_eq!(events.removed_networks(), BTreeSet::new());
}

const VERSION: &str = "{\"Version\":\"20.10.24\",\"ApiVersion\":\"1.41\",\"MinAPIVersion\":\"1.12\"}";

const REMOVALS: &str = "{\"Type\":\"container\",\"Action\":\"destroy\",\"Actor\":{\"ID\":\"c7\"}}
{\"Type\":\"network\",\"Action\":\"destroy\",\"Actor\":{\"ID\":\"n7\"}}
{\"Type\":\"network\",\"Action\":\"create\",\"Actor\":{\"ID\":\"n8\"}}
";

const NETWORKS: &str =
    r#"[{"Id":"n0","Name":"host","Driver":"host","EnableIPv6":false,"Internal":false,"IPAM":{"Config":[]}}]"#;

const LIST: &str = r#"[{"Id":"aa","Names":["/gone"]},{"Id":"bb","Names":["/ended"]},
    {"Id":"cc","Names":["/other/alias","/stuck"],"Labels":{"fw.host":"deny"},
     "HostConfig":{"NetworkMode":"front"},
     "Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"PrivatePort":81,"Type":"tcp"}],
     "NetworkSettings":{"Networks":{"front":{"NetworkID":"n1","EndpointID":"e1",
        "MacAddress":"02:42:ac:12:00:02","IPAddress":"172.18.0.2","GlobalIPv6Address":""}}}}]"#;

fn answer_to(path: &str, list: &str) -> Reply {
    Reply::Json(
        200,
        match path {
            "/version" => VERSION.into(),
            "/networks" => NETWORKS.into(),
            _ => list.into(),
        },
    )
}

async fn refused(url: &str) -> DockerError {
    Docker::connect_within(url, PATIENCE).await.expect_err("no engine")
}

enum Reply {
    Json(u16, String),
    Raw(&'static str),
    Silence,
}

/// A socket that answers each request by its path.
struct Engine {
    _dir: TempDir,
    path: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let dir = TempDir::new().expect("a directory");
        let path = dir.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (reply, log) = (Arc::new(reply), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&reply), Arc::clone(&log)));
            }
        });
        Self { _dir: dir, path, asked }
    }

    async fn connect(&self) -> Result<Docker, DockerError> {
        Docker::connect_within(&self.path.display().to_string(), PATIENCE).await
    }

    async fn refused(&self) -> DockerError {
        self.connect().await.expect_err("no engine")
    }

    async fn snapshot(&self) -> Result<DockerSnapshot, DockerError> {
        self.connect().await?.snapshot().await
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    reply: Arc<impl Fn(&str) -> Reply>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await.unwrap_or_default() == 0 {
            return;
        }
    }
    let request = String::from_utf8_lossy(&request);
    let path = request.split(' ').nth(1).and_then(|path| path.split('?').next()).unwrap_or_default();
    asked.lock().expect("the paths").push(path.to_owned());
    let answer = match reply(path) {
        Reply::Raw(text) => text.to_owned(),
        Reply::Silence => return std::future::pending().await,
        Reply::Json(status, body) => format!(
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ),
    };
    let _ = stream.write_all(answer.as_bytes()).await;
}

const PATIENCE: Duration = Duration::from_millis(400);
