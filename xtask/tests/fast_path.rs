//! The fast path: what it carries arrives as the stack would have brought it, the stack sees a packet of it each second,
//! and who stops a connection stops it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use xtask::lab::{self, Container, HOST, Lab, OUTSIDE, Options, Place, wait};

const POLICY: &str = r#"
[uplink]
fast_path = "on"

[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[[allow]]
name = "datagrams"
proto = "udp"
ports = [5353]
"#;

/// As [`POLICY`], without its rules.
const CLOSED: &str = "[uplink]\nfast_path = \"on\"\n";

/// How long a conversation goes on before it is looked at: a path is made a second after the first packet, and the clock
/// ticks in seconds.
const SETTLED: Duration = Duration::from_millis(3_500);

/// Longer than a path is used without the stack.
const STALE: Duration = Duration::from_millis(2_500);

struct Ground {
    lab: Lab,
    web: Container,
}

impl Ground {
    fn start(test: &str) -> Option<Self> {
        if !lab::available(test) {
            return None;
        }
        let lab = Lab::start(Options::default()).expect("a lab");
        lab.network("web", &["--subnet", "10.1.0.0/24"]).expect("a network");
        let published = ["--network=web", "-p=8080:80", "-p=5353:53/udp"];
        let web = lab.container("web", &published).expect("a container");
        Some(Self { lab, web })
    }

    /// Packets that the stack has forwarded, by its own counters of the bridge: what goes past it is not among them.
    fn forwarded(&self) -> u64 {
        let counted = self.lab.host().run(&["iptables-nft", "-w", "-t", "mangle", "-nvxL", "FORWARD"]);
        let counted = counted.expect("the counters");
        let rule = counted.lines().find(|line| line.contains("all-of-it")).expect("the rule that counts");
        rule.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    }

    fn count(&self) {
        let rule = "iptables-nft -w -t mangle -I FORWARD -m comment --comment all-of-it";
        self.lab.host().script(rule).expect("a rule that counts");
    }
}

/// Sends back what it is sent by the first that connects.
fn echo(place: &Place, at: &str) -> JoinHandle<()> {
    let listener = place.within(|| TcpListener::bind(at)).expect("a place").expect("a listener");
    std::thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        drop(listener);
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    })
}

fn connect(from: &Place, to: SocketAddr) -> TcpStream {
    let stream = from.connect(to).expect("a connection");
    stream.set_nodelay(true).expect("an option");
    stream.set_read_timeout(Some(Duration::from_secs(4))).expect("a timeout");
    stream.set_write_timeout(Some(Duration::from_secs(4))).expect("a timeout");
    stream
}

/// One question and its answer; whether it was the right one.
fn ask(stream: &mut TcpStream, number: u64) -> bool {
    let mut answer = [0; 8];
    stream.write_all(&number.to_be_bytes()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == number.to_be_bytes()
}

/// Questions for as long; how many were answered, all of them rightly.
fn converse(stream: &mut TcpStream, span: Duration) -> u64 {
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < span {
        assert!(ask(stream, asked), "question {asked} was not answered");
        asked += 1;
    }
    asked
}

/// So many bytes there and back, compared as they come.
fn transfer(stream: &TcpStream, bytes: usize) {
    let pattern = |at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = stream;
            let mut block = vec![0; 1 << 16];
            for start in (0..bytes).step_by(block.len()) {
                block.iter_mut().enumerate().for_each(|(at, byte)| *byte = pattern(start + at));
                stream.write_all(&block).expect("bytes are sent");
            }
        });
        let mut stream = stream;
        let mut block = vec![0; 1 << 16];
        for start in (0..bytes).step_by(block.len()) {
            stream.read_exact(&mut block).expect("bytes come back");
            let right = block.iter().enumerate().all(|(at, byte)| *byte == pattern(start + at));
            assert!(right, "other bytes came back, {start} from the beginning");
        }
    });
}

#[test]
fn a_conversation_goes_past_the_stack_and_is_the_same() {
    let Some(ground) = Ground::start("a_conversation_goes_past_the_stack_and_is_the_same") else { return };
    let (lab, web) = (&ground.lab, &ground.web);
    let daemon = lab.fw_run(POLICY).expect("fw");
    ground.count();
    for (what, from, to, at, server) in [
        ("to a published port", lab.outside(), SocketAddr::from((HOST, 8080)), "0.0.0.0:80", &web.place),
        ("out of a container", &web.place, (OUTSIDE, 4433).into(), "0.0.0.0:4433", lab.outside()),
    ] {
        let served = echo(server, at);
        let mut stream = connect(from, to);
        converse(&mut stream, SETTLED);
        let before = ground.forwarded();
        let asked = converse(&mut stream, SETTLED);
        let stack = ground.forwarded() - before;
        println!("{what}: {asked} questions, {stack} packets by the stack");
        assert!(asked > 200, "{what}: {asked} questions are too few to tell");
        assert!(stack < asked / 4, "{what}: the stack carried {stack} packets of {asked} questions");
        assert!(stack >= 4, "{what}: the stack saw {stack} packets in {SETTLED:?}: conntrack would forget");
        // Segments of all sizes, and windows that conntrack does not see.
        transfer(&stream, 48 << 20);
        wait::pass(STALE);
        converse(&mut stream, SETTLED);
        let entries =
            lab.host().run(&["conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED"]).expect("conntrack");
        assert!(entries.contains(&format!("dport={}", to.port())), "{what}: conntrack lost it: {entries}");
        drop(stream);
        served.join().expect("the server");
        wait::until("conntrack to see the end", Duration::from_secs(5), || {
            let entries = lab.host().run(&["conntrack", "-L", "-p", "tcp", "--state", "ESTABLISHED"]).ok()?;
            (!entries.contains(&format!("dport={}", to.port()))).then_some(())
        })
        .expect("FIN goes by the stack");
    }
    daemon.terminate().expect("SIGTERM");
}

#[test]
fn datagrams_go_past_the_stack_and_keep_their_ports() {
    let Some(ground) = Ground::start("datagrams_go_past_the_stack_and_keep_their_ports") else { return };
    let (lab, web) = (&ground.lab, &ground.web);
    let daemon = lab.fw_run(POLICY).expect("fw");
    ground.count();
    let _served = web.place.serve_udp("0.0.0.0:53", "web").expect("a server");
    let socket = lab.outside().within(|| UdpSocket::bind("0.0.0.0:0")).expect("a place").expect("a socket");
    socket.connect(SocketAddr::from((HOST, 5353))).expect("an address");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    let ask_for = |span: Duration| {
        let begun = Instant::now();
        let mut asked = 0_u64;
        let mut answer = [0; 16];
        while begun.elapsed() < span {
            socket.send(&asked.to_be_bytes()).expect("a datagram");
            // A connected socket takes answers from the address and port it asked alone.
            let length = socket.recv(&mut answer).expect("an answer");
            assert_eq!(&answer[..length], b"web\n");
            asked += 1;
        }
        asked
    };
    ask_for(SETTLED);
    let before = ground.forwarded();
    let asked = ask_for(SETTLED);
    let stack = ground.forwarded() - before;
    println!("{asked} questions, {stack} packets by the stack");
    assert!(
        asked > 200 && stack < asked / 4 && stack >= 4,
        "{stack} packets by the stack of {asked} questions"
    );
    daemon.terminate().expect("SIGTERM");
}

/// The hooks of one CPU share a desk: what a packet that went past the decision leaves there is nothing to the next one.
#[test]
fn what_the_host_opens_meanwhile_is_judged_for_itself() {
    let Some(ground) = Ground::start("what_the_host_opens_meanwhile_is_judged_for_itself") else { return };
    let (lab, web) = (&ground.lab, &ground.web);
    let daemon = lab.fw_run(POLICY).expect("fw");
    let _answers = lab.outside().serve_tcp("0.0.0.0:443", "R").expect("a server");
    let _datagrams = lab.outside().serve_udp("0.0.0.0:123", "R").expect("a server");
    let served = echo(&web.place, "0.0.0.0:80");
    let mut stream = connect(lab.outside(), (HOST, 8080).into());
    std::thread::scope(|scope| {
        let conversation = scope.spawn(|| converse(&mut stream, 2 * SETTLED));
        wait::pass(SETTLED);
        let mut failed = Vec::new();
        for number in 0..60 {
            let opened = Instant::now();
            // One lost SYN is a second.
            let tcp = lab.host().tcp((OUTSIDE, 443).into()).expect("a probe");
            if !tcp.reached_at("R") || opened.elapsed() > Duration::from_millis(900) {
                failed.push(format!("connection {number}"));
            }
            if !lab.host().udp((OUTSIDE, 123).into()).expect("a probe").reached_at("R") {
                failed.push(format!("datagram {number}"));
            }
        }
        assert_eq!(failed, Vec::<String>::new(), "{}", lab.fw_log());
        assert!(!conversation.is_finished(), "the conversation ended before");
        conversation.join().expect("the conversation");
    });
    drop(stream);
    served.join().expect("the server");
    daemon.terminate().expect("SIGTERM");
}

#[test]
fn who_stops_a_connection_stops_it_on_the_fast_path() {
    let Some(ground) = Ground::start("who_stops_a_connection_stops_it_on_the_fast_path") else { return };
    let (lab, web) = (&ground.lab, &ground.web);
    let client: IpAddr = OUTSIDE.into();
    let stopped = |what: &str, stop: &mut dyn FnMut(), go_on: &mut dyn FnMut()| {
        let served = echo(&web.place, "0.0.0.0:80");
        let mut stream = connect(lab.outside(), (HOST, 8080).into());
        converse(&mut stream, SETTLED);
        let before = ground.forwarded();
        let asked = converse(&mut stream, STALE);
        let stack = ground.forwarded() - before;
        assert!(
            stack < asked / 4,
            "{what}: nothing to stop: the stack carried {stack} packets of {asked} questions"
        );
        stop();
        // What is under way when it begins may arrive, and for a second the fast path knows nothing of others' rules.
        let begun = Instant::now();
        let mut number = 0;
        while begun.elapsed() < STALE && ask(&mut stream, number) {
            number += 1;
        }
        assert!(!ask(&mut stream, u64::MAX), "{what}: the connection went on");
        go_on();
        drop(stream);
        lab.host().run(&["conntrack", "-F"]).ok();
        // It may wait for its peer for ever.
        drop(served);
    };
    let daemon = lab.fw_run(POLICY).expect("fw");
    ground.count();
    let reload = |policy: &str| {
        std::fs::write(lab.path("/run/lab/policy.toml"), policy).expect("the policy");
        lab.fw(&["reload"]).expect("fw reload");
    };
    let rule = |how: &str| {
        let line = format!("iptables-nft -w -{how} DOCKER-USER -s {client} -j DROP");
        lab.host().script(&line).expect("a rule of the administrator's");
    };
    stopped("a ban in DOCKER-USER", &mut || rule("I"), &mut || rule("D"));
    stopped("the policy", &mut || reload(CLOSED), &mut || reload(POLICY));
    daemon.terminate().expect("SIGTERM");
}
