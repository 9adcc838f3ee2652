//! Every error: its place, what is wrong, what was expected.

use std::error::Error as _;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::super::{Policy, PolicyError};
use super::{found, problems, wrong};

/// An `[[allow]]` rule for TCP; the lines given begin at line 4.
fn rule(lines: &str) -> String {
    format!("[[allow]]\nname = \"web\"\nproto = \"tcp\"\n{lines}\n")
}

/// A rule with this list of ports, which begins at line 4, column 9.
fn ports(list: &str) -> String {
    rule(&format!("ports = {list}"))
}

/// A set and a rule with this `from`, which begins at line 7, column 8.
fn from(value: &str) -> String {
    format!("[sets]\noffice = [\"192.0.2.0/24\"]\n{}", rule(&format!("ports = [80]\nfrom = {value}")))
}

/// A `[[network]]`; the lines given begin at line 2.
fn network(lines: &str) -> String {
    format!("[[network]]\n{lines}\n")
}

#[test]
fn a_file_that_is_not_toml_reports_every_syntax_error() {
    let found = problems("mode = \n[uplink]\npublished = closed\n[uplink]\n");
    let lines: Vec<u32> = found.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [1, 3, 4], "{found:#?}");
    assert!(found.iter().all(|problem| problem.message.starts_with("not valid TOML: ")), "{found:#?}");
    assert_eq!(found[2].message, "not valid TOML: duplicate key");
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    wrong("moed = \"observe\"", "1:1: unknown key `moed` at the top level; did you mean `mode`?");
    wrong(
        "[uplink]\ninterface = [\"eth0\"]",
        "2:1: unknown key `interface` in [uplink]; did you mean `interfaces`?",
    );
    wrong(&rule("port = [80]\nports = [80]"), "4:1: unknown key `port` in [[allow]]; did you mean `ports`?");
    wrong(
        "[[deny]]\nname = \"a\"\nfrom = [\"192.0.2.1\"]\nproto = \"tcp\"",
        "4:1: unknown key `proto` in [[deny]]; expected one of `name`, `from`",
    );
    wrong(
        "[networks.\"*\"]\nspofing = \"drop\"",
        "2:1: unknown key `spofing` in [networks.*]; did you mean `spoofing`?",
    );
    wrong(
        &network("name = \"lxc\"\nbridge = \"lxcbr0\"\nsubnets = [\"10.0.3.0/24\"]\nsubnet = 1"),
        "5:1: unknown key `subnet` in [[network]]; did you mean `subnets`?",
    );
    wrong("[nat]\nowned = \"docker\"", "2:1: unknown key `owned` in [nat]; did you mean `owner`?");
    wrong("[docker]\nswam = \"off\"", "2:1: unknown key `swam` in [docker]; did you mean `swarm`?");
    wrong("[marks]\nbits = 24", "2:1: unknown key `bits` in [marks]; did you mean `bit`?");
}

#[test]
fn wrong_types_say_what_was_expected() {
    wrong("mode = 1", "1:8: `mode` holds an integer; expected \"enforce\" or \"observe\"");
    wrong("uplink = \"eth0\"", "1:10: `uplink` holds a string; expected a table, [uplink]");
    wrong(
        "[allow]\nname = \"a\"",
        "1:1: `allow` holds a table; expected [[allow]] with two brackets, once for each",
    );
    wrong("allow = [1]", "1:10: `allow` holds an integer; expected a table, [[allow]]");
    wrong(
        "[uplink]\ninterfaces = 3",
        "2:14: `interfaces` holds an integer; expected \"auto\", or a list of interface names such as [\"eth0\"]",
    );
    wrong(
        "[uplink]\ninterfaces = [3]",
        "2:15: `interfaces` holds an integer; expected the name of an interface, such as \"eth0\"",
    );
    wrong(&ports("80"), "4:9: `ports` holds an integer; expected a list, `ports = [80, \"8000-8100\"]`");
    wrong(
        &ports("[80.5]"),
        "4:10: `ports` holds a float; expected port numbers and ranges, `ports = [80, \"8000-8100\"]`",
    );
    wrong(
        &from("\"office\""),
        "7:8: `from` holds a string; expected a list of set names and prefixes, `from = [\"office\", \"203.0.113.7\"]`",
    );
    wrong(
        "[sets]\noffice = \"192.0.2.0/24\"",
        "2:10: `office` holds a string; expected a list of prefixes, or { file = \"prefixes.txt\" }",
    );
    wrong("[sets]\noffice = [true]", "2:11: `office` holds a boolean; expected prefixes as strings");
    wrong(
        "[networks]\nbackend = 1",
        "2:11: `backend` holds an integer; expected a table, [networks.backend]",
    );
    wrong(
        "[networks.a]\nspoofing = 1979-05-27",
        "2:12: `spoofing` holds a date; expected \"drop\" or \"allow\"",
    );
    wrong("[marks]\nbit = \"24\"", "2:7: `bit` holds a string; expected a bit number, 17 to 30");
}

#[test]
fn the_name_of_bans_is_not_free() {
    wrong(
        "[[deny]]\nname = \"ban\"\nfrom = [\"192.0.2.1\"]",
        "2:8: rule `ban` would be taken for what `fw ban` bans; expected another name",
    );
}

#[test]
fn names_of_what_a_swarm_needs_are_not_free() {
    wrong(
        "[[deny]]\nname = \"swarm-vxlan\"\nfrom = [\"192.0.2.1\"]",
        "2:8: rule `swarm-vxlan` would be taken for what [docker] `swarm` lets in; expected another name",
    );
}

#[test]
fn words_and_numbers_out_of_range_say_which_are_possible() {
    wrong("mode = \"enforced\"", "1:8: `mode` is \"enforced\"; expected \"enforce\" or \"observe\"");
    wrong("fallback = \"open\"", "1:12: `fallback` is \"open\"; expected \"docker\" or \"closed\"");
    wrong(
        "[uplink]\nxdp = \"on\"",
        "2:7: `xdp` is \"on\"; expected \"auto\", \"off\", \"native\" or \"generic\"",
    );
    wrong("[docker]\nswarm = true", "2:9: `swarm` holds a boolean; expected \"auto\" or \"off\"");
    wrong("[docker]\nswarm = \"on\"", "2:9: `swarm` is \"on\"; expected \"auto\" or \"off\"");
    wrong("[uplink]\npublished = \"no\"", "2:13: `published` is \"no\"; expected \"closed\" or \"open\"");
    wrong(
        "[[allow]]\nname = \"a\"\nproto = \"sctp\"\nports = [1]",
        "3:9: `proto` is \"sctp\"; expected \"tcp\", \"udp\" or \"icmp\"",
    );
    wrong("[networks.a]\nspoofing = \"no\"", "2:12: `spoofing` is \"no\"; expected \"drop\" or \"allow\"");
    wrong("[networks.a]\nhost = \"drop\"", "2:8: `host` is \"drop\"; expected \"allow\" or \"deny\"");
    wrong(
        "[networks.a]\negress = \"all\"",
        "2:10: `egress` is \"all\"; expected \"any\", \"none\", \"internet\", or a list of set names and prefixes",
    );
    wrong("[nat]\nowner = \"me\"", "2:9: `owner` is \"me\"; expected \"docker\" or \"fw\"");
    for bit in ["16", "31", "-1", "99999999999999999999"] {
        wrong(
            &format!("[marks]\nbit = {bit}"),
            "2:7: `bit` is out of range; expected a bit number, 17 to 30",
        );
    }
}

#[test]
fn ports_are_checked() {
    wrong(&ports("[\"8100-8000\"]"), "4:10: port range \"8100-8000\" is inverted; expected \"8000-8100\"");
    wrong(&ports("[80, 443, 80]"), "4:19: ports 80 overlap 80 of the same rule; expected each port once");
    wrong(
        &ports("[\"8000-8100\", \"8050-8060\"]"),
        "4:23: ports 8050-8060 overlap 8000-8100 of the same rule; expected each port once",
    );
    wrong(
        &ports("[\"10-20\", \"30-40\", \"20-30\"]"),
        "4:28: ports 20-30 overlap 10-20 of the same rule; expected each port once",
    );
    wrong(&ports("[0]"), "4:10: port 0 is out of range; expected 1 to 65535");
    wrong(&ports("[\"0-5\"]"), "4:10: port 0 is out of range; expected 1 to 65535");
    wrong(&ports("[-5]"), "4:10: port -5 is out of range; expected 1 to 65535");
    wrong(&ports("[65536]"), "4:10: port 65536 is out of range; expected 1 to 65535");
    wrong(&ports("[\"1-70000\"]"), "4:10: port 70000 is out of range; expected 1 to 65535");
    wrong(&ports("[0xfffffffffffffffffff]"), "4:10: port number is out of range; expected 1 to 65535");
    for text in ["80", "http", "8000:8100", "1-2-3", "-5", "+1-2", ""] {
        wrong(
            &ports(&format!("[{text:?}]")),
            &format!(
                "4:10: {text:?} is not a port range; expected a number such as 80, or a range such as \"8000-8100\""
            ),
        );
    }
    wrong(&ports("[]"), "4:9: `ports` is empty; expected at least one port, `ports = [80, \"8000-8100\"]`");
    wrong(
        &rule(""),
        "1:1: `ports` is missing in [[allow]]; expected for example `ports = [80, \"8000-8100\"]`",
    );
    wrong(
        "[[allow]]\nname = \"ping\"\nproto = \"icmp\"\nports = [8]",
        "4:9: `ports` has no meaning with proto = \"icmp\", which allows echo; remove it",
    );
}

#[test]
fn rules_need_a_name_of_their_own_and_a_protocol() {
    wrong(
        "\n[[allow]]\nproto = \"icmp\"",
        "2:1: `name` is missing in [[allow]]; expected for example `name = \"web\"`",
    );
    wrong(
        "[[allow]]\nname = \"a\"",
        "1:1: `proto` is missing in [[allow]]; expected for example `proto = \"tcp\"`",
    );
    wrong(
        &(rule("ports = [80]") + &rule("ports = [81]")),
        "6:8: rule `web` stands already at line 2; expected a name of its own",
    );
    wrong(
        &(rule("ports = [80]") + "[[deny]]\nname = \"web\"\nfrom = [\"192.0.2.1\"]"),
        "6:8: rule `web` stands already at line 2; expected a name of its own",
    );
    let expected = "cannot name a rule; expected one line of text, at most 64 bytes";
    for name in ["", " web", "a\nb", &"x".repeat(65), &"ä".repeat(33)] {
        let text = format!("[[allow]]\nname = {name:?}\nproto = \"icmp\"");
        wrong(&text, &format!("2:8: {name:?} {expected}"));
    }
    wrong(
        "[[deny]]\nname = \"a\"",
        "1:1: `from` is missing in [[deny]]; expected for example `from = [\"office\", \"203.0.113.7\"]`",
    );
}

#[test]
fn sources_are_known_sets_or_prefixes() {
    wrong(&from("[\"ofice\"]"), "7:9: \"ofice\" is neither a set nor a prefix; did you mean \"office\"?");
    wrong(
        &from("[\"partners\"]"),
        "7:9: \"partners\" is neither a set nor a prefix; expected a name that stands in [sets], or a prefix",
    );
    wrong(
        &from("[]"),
        "7:8: an empty list means nobody; expected set names or prefixes, or leave `from` out for any source",
    );
    wrong(
        "[[deny]]\nname = \"a\"\nfrom = []",
        "3:8: an empty list means nobody; expected set names or prefixes, or remove the rule",
    );
    wrong(
        &from("[\"192.0.2.300\"]"),
        "7:9: \"192.0.2.300\" is not an address or prefix; expected for example \"203.0.113.0/24\" or \"2001:db8:12::/48\"",
    );
    wrong(
        &from("[\"office\", \"192.0.2.1/24\"]"),
        "7:19: \"192.0.2.1/24\" has address bits set below the prefix; expected \"192.0.2.0/24\", or \"192.0.2.1\" for the one address",
    );
}

#[test]
fn prefixes_in_sets_are_checked() {
    let set = |prefix: &str| format!("[sets]\na = [{prefix:?}]");
    wrong(
        &set("2001:db8::1/48"),
        "2:6: \"2001:db8::1/48\" has address bits set below the prefix; expected \"2001:db8::/48\", or \"2001:db8::1\" for the one address",
    );
    wrong(
        &set("::ffff:192.0.2.1"),
        "2:6: \"::ffff:192.0.2.1\" is IPv4 written as IPv6; expected \"192.0.2.1\"",
    );
    wrong(
        &set("::ffff:10.1.2.3/104"),
        "2:6: \"::ffff:10.1.2.3/104\" is IPv4 written as IPv6; expected \"10.0.0.0/8\"",
    );
    wrong(
        &set("10.0.0.0/33"),
        "2:6: \"10.0.0.0/33\" has no valid prefix length \"33\"; expected 0 to 32 for IPv4",
    );
    wrong(&set("fe80::/x"), "2:6: \"fe80::/x\" has no valid prefix length \"x\"; expected 0 to 128 for IPv6");
    wrong(
        &set("example.org"),
        "2:6: \"example.org\" is not an address or prefix; expected for example \"203.0.113.0/24\" or \"2001:db8:12::/48\"",
    );
    let expected = "cannot name a set; expected a letter, then letters, digits, '-', '_' and '.', at most 64 bytes in all";
    wrong("[sets]\n\"10.0.0.1\" = []", &format!("2:1: \"10.0.0.1\" {expected}"));
}

#[test]
fn interface_names_follow_the_kernel() {
    let cases = [
        ("", "is empty"),
        ("sixteen-bytes-ab", "is longer than 15 bytes"),
        ("eth 0", "holds a character that no interface name has"),
        ("eth/0", "holds a character that no interface name has"),
        ("eth0:1", "holds a character that no interface name has"),
        ("..", "is not possible"),
    ];
    for (name, what) in cases {
        let expected = format!(
            "interface name {name:?} {what}; expected 1 to 15 bytes without '/', ':' and white space"
        );
        wrong(&format!("[uplink]\ninterfaces = [{name:?}]"), &format!("2:15: {expected}"));
        let bridge = network(&format!("name = \"a\"\nbridge = {name:?}\nsubnets = [\"10.0.3.0/24\"]"));
        wrong(&bridge, &format!("3:10: {expected}"));
    }
    wrong(
        "[uplink]\ninterfaces = []",
        "2:14: `interfaces` is an empty list; expected \"auto\", or a list of interface names such as [\"eth0\"]",
    );
    wrong(
        "[uplink]\ninterfaces = \"eth0\"",
        "2:14: `interfaces` is \"eth0\"; expected \"auto\", or a list of interface names such as [\"eth0\"]",
    );
    wrong(
        "[uplink]\ninterfaces = [\"eth0\", \"eth0\"]",
        "2:23: interface \"eth0\" is listed twice; expected each once",
    );
}

#[test]
fn more_zones_than_bits_are_refused_at_the_rule_that_adds_the_last() {
    let mut text = String::new();
    for n in 0..66 {
        writeln!(text, "[[allow]]\nname = \"r{n}\"\nproto = \"icmp\"\nfrom = [\"192.0.2.{n}\"]")
            .expect("a string takes every line");
    }
    wrong(
        &text,
        "257:1: with this, [[allow]] and [[out]] rules and `egress` use 65 different sets; expected at most 64: merge some",
    );
}

#[test]
fn networks_have_names() {
    let expected = "cannot name a network; expected a name as `docker network ls` shows it, or \"*\"";
    wrong("[networks.\"\"]", &format!("1:11: \"\" {expected}"));
    wrong("[networks.\"a\\u001b\"]", &format!("1:11: \"a\\u{{1b}}\" {expected}"));
}

#[test]
fn static_networks_are_distinct() {
    let lxc = network("name = \"lxc\"\nbridge = \"lxcbr0\"\nsubnets = [\"10.0.3.0/24\"]");
    let other = |name: &str, bridge: &str, subnet: &str| {
        lxc.clone() + &network(&format!("name = {name:?}\nbridge = {bridge:?}\nsubnets = [{subnet:?}]"))
    };
    wrong(
        &other("lxc", "virbr0", "10.0.4.0/24"),
        "6:8: network `lxc` stands already in another [[network]]; expected a name of its own",
    );
    wrong(
        &other("virt", "lxcbr0", "10.0.4.0/24"),
        "7:10: bridge `lxcbr0` is already that of network `lxc`; expected one [[network]] for each bridge",
    );
    wrong(
        &other("virt", "virbr0", "10.0.0.0/16"),
        "8:12: 10.0.0.0/16 overlaps 10.0.3.0/24 above; expected each subnet once",
    );
    wrong(
        &format!("[uplink]\ninterfaces = [\"lxcbr0\"]\n{lxc}"),
        "5:10: `lxcbr0` is named in uplink.interfaces; expected it there or here, not both",
    );
    for subnet in ["0.0.0.0/0", "::/0", "127.0.0.0/8", "fe80::/64", "224.0.0.0/8"] {
        wrong(
            &network(&format!("name = \"a\"\nbridge = \"b\"\nsubnets = [{subnet:?}]")),
            &format!(
                "4:12: {subnet} cannot be the subnet of a bridge; expected unicast addresses, for example \"10.0.3.0/24\""
            ),
        );
    }
    wrong(
        &network("name = \"a\"\nbridge = \"b\"\nsubnets = []"),
        "4:11: `subnets` is empty; expected a list of prefixes, `subnets = [\"10.0.3.0/24\"]`",
    );
    wrong(
        &network("name = \"a\"\nbridge = \"b\""),
        "1:1: `subnets` is missing in [[network]]; expected for example `subnets = [\"10.0.3.0/24\"]`",
    );
}

#[test]
fn wrong_translations() {
    let redirect =
        |rest: &str| format!("[[nat.redirect]]\nname = \"a\"\nproto = \"udp\"\nports = [53]\n{rest}");
    wrong(&redirect(""), "1:1: `to` is missing in [[nat.redirect]]; expected for example `to = 5353`");
    wrong(&redirect("to = 0"), "5:6: port 0 is out of range; expected 1 to 65535");
    wrong(&redirect("to = \"127.0.0.1:53\""), "5:6: `to` holds a string; expected a port of this host");
    wrong(
        &redirect("to = 1\nport = 2"),
        "6:1: unknown key `port` in [[nat.redirect]]; did you mean `ports`?",
    );
    wrong(
        &redirect("to = 1\nfrom = []"),
        "6:8: an empty list means nobody; expected a list of \"containers\", \"uplinks\"",
    );
    wrong(
        &redirect("to = 1\nfrom = [\"host\"]"),
        "6:9: `from` holds \"host\"; expected a list of \"containers\", \"uplinks\"",
    );
    wrong(
        "[[nat.redirect]]\nname = \"a\"\nproto = \"icmp\"\nports = [1]\nto = 1",
        "3:9: `proto` is \"icmp\"; expected \"tcp\" or \"udp\"",
    );
    let second = "to = 1\n[[nat.redirect]]\nname = \"b\"\nproto = \"udp\"\nports = [\"50-60\"]\nto = 2";
    wrong(
        &redirect(second),
        "6:1: redirect `b` has a port in common with redirect `a` at line 1; expected each once",
    );
    let dnat = |address: &str, to: &str| {
        format!(
            "[[nat.dnat]]\nname = \"a\"\nproto = \"tcp\"\nports = [1]\naddress = \"{address}\"\nto = \"{to}\""
        )
    };
    let address = "expected the address of one server, such as \"192.0.2.10\"";
    for not_one in ["192.0.2.0/24", "127.0.0.1", "224.0.0.1", "0.0.0.0", "::ffff:192.0.2.1", "fe80::1"] {
        wrong(&dnat(not_one, "192.0.2.1"), &format!("5:11: `address` is {not_one:?}; {address}"));
    }
    let to =
        "expected an address with or without a port, such as \"192.0.2.20:5432\" or \"[2001:db8::20]:5432\"";
    for not_one in ["5432", "192.0.2.1:0", "localhost:1"] {
        wrong(&dnat("192.0.2.1", not_one), &format!("6:6: `to` is {not_one:?}; {to}"));
    }
    wrong(
        &dnat("192.0.2.1", "2001:db8::1"),
        "6:6: `to` is of another family than `address`, 192.0.2.1; expected both of one",
    );
    let twice =
        dnat("192.0.2.1", "192.0.2.2") + "\n" + &dnat("192.0.2.1", "192.0.2.3").replace("\"a\"", "\"b\"");
    wrong(
        &twice,
        "7:1: dnat `b` translates a port of 192.0.2.1 that dnat `a` at line 1 translates already; expected each once",
    );
}

#[test]
fn wrong_sections_of_containers() {
    wrong(
        "[containers.a]\negres = \"none\"",
        "2:1: unknown key `egres` in [containers.a]; did you mean `egress`?",
    );
    wrong(
        "[containers.a]\negress = []",
        "2:10: an empty list means nobody; expected set names or prefixes, or write \"none\"",
    );
    wrong("[containers.a]\nhost = \"no\"", "2:8: `host` is \"no\"; expected \"allow\" or \"deny\"");
    wrong(
        "[containers.\"*\"]\nhost = \"deny\"",
        "1:13: \"*\" cannot name a container; expected a name as `docker ps` shows it",
    );
}

#[test]
fn all_errors_of_a_file_come_together_in_the_order_of_the_file() {
    let found = problems(
        "[marks]\nbit = 1\n[uplink]\npublished = \"x\"\n[[allow]]\nname = \"a\"\nports = [0, 65536]\nfrom = [\"b\"]\n[nat]\nowner = \"me\"\n",
    );
    let lines: Vec<u32> = found.iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [2, 4, 5, 7, 7, 8, 10], "{found:#?}");
}

#[test]
fn beyond_a_hundred_errors_are_counted() {
    let text = format!("[sets]\na = [{}]", "\"x\", ".repeat(150));
    let error = super::parse(&text).expect_err("no entry is a prefix");
    let shown = error.to_string();
    assert_eq!(shown.lines().count(), 101);
    assert!(shown.ends_with("\nand 50 more"), "{shown}");
}

#[test]
fn set_files_have_errors_of_their_own() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("scanners.txt");
    let policy =
        "\n[sets]\nscanners = { file = \"scanners.txt\" }\n[[deny]]\nname = \"a\"\nfrom = [\"scanners\"]\n";
    let parse = || found(Policy::parse(policy, Path::new("policy.toml"), dir.path()));
    let shown = || parse().iter().map(ToString::to_string).collect::<Vec<_>>();

    let path = file.display();
    let missing = format!(
        "policy.toml:3:21: cannot read the set file {path}: No such file or directory (os error 2); \
         expected a text file, relative to the policy file or absolute"
    );
    assert_eq!(shown(), [missing]);

    fs::write(&file, "192.0.2.0/24\r\n\n  # comment\n  192.0.2.1/24 # why\nbad\n").expect("writable");
    let bits = "\"192.0.2.1/24\" has address bits set below the prefix; expected \"192.0.2.0/24\", or \"192.0.2.1\" for the one address";
    let bad = "\"bad\" is not an address or prefix; expected for example \"203.0.113.0/24\" or \"2001:db8:12::/48\"";
    assert_eq!(shown(), [format!("{path}:4:3: {bits}"), format!("{path}:5:1: {bad}")]);

    fs::write(&file, b"192.0.2.1\nab\xff").expect("writable");
    assert_eq!(shown(), [format!("{path}:2:3: not valid UTF-8; expected a text file in UTF-8")]);

    fs::write(&file, "bad\n".repeat(1000)).expect("writable");
    let last = parse().pop().expect("there are errors");
    assert_eq!((last.line, last.message.as_str()), (11, "from here on 990 more lines are not prefixes"));
}

#[test]
fn a_set_without_a_file_says_so() {
    wrong(
        "[sets]\na = {}",
        "2:5: `file` is missing in set `a`; expected for example `file = \"prefixes.txt\"`",
    );
    wrong("[sets]\na = { file = 1 }", "2:14: `file` holds an integer; expected the name of a file");
    wrong(
        "[sets]\na = { file = \"/dev/null\", url = 1 }",
        "2:27: unknown key `url` in set `a`; expected `file`",
    );
}

#[test]
fn an_unreadable_policy_file_says_which_and_why() {
    let error = Policy::read(Path::new("/nonexistent/policy.toml")).expect_err("there is no such file");
    assert!(matches!(error, PolicyError::Read { .. }));
    assert_eq!(
        error.to_string(),
        "cannot read the policy file /nonexistent/policy.toml: No such file or directory (os error 2); write one as \
         docs/policy.md says, or name another (`fw run --policy FILE`)"
    );
    assert!(error.source().expect("the reason").to_string().starts_with("No such file"));

    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("policy.toml");
    fs::write(&path, b"# ok\nmode = \"\xfe\"").expect("writable");
    let error = Policy::read(&path).expect_err("not text");
    let expected = format!("{}:2:9: not valid UTF-8; expected a text file in UTF-8", path.display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn outbound_rules_say_what_is_wrong_with_them() {
    let out = |keys: &str| format!("[[out]]\nname = \"a\"\nproto = \"tcp\"\n{keys}");
    wrong(
        &out("to = []"),
        "4:6: an empty list means nobody; expected set names or prefixes, or leave `to` out for any destination",
    );
    wrong(&out("source_ports = [0]"), "4:17: port 0 is out of range; expected 1 to 65535");
    wrong(&out("port = [1]"), "4:1: unknown key `port` in [[out]]; did you mean `ports`?");
    wrong(
        "[[out]]\nname = \"a\"\nproto = \"icmp\"\nports = [1]",
        "4:9: ports have no meaning with proto = \"icmp\", which stands for echo; remove them",
    );
    wrong(
        "[[deny]]\nname = \"a\"\nfrom = [\"192.0.2.1\"]\n[[out]]\nname = \"a\"\nproto = \"tcp\"",
        "5:8: rule `a` stands already at line 2; expected a name of its own",
    );
}

#[test]
fn limits_say_what_is_wrong_with_them() {
    let limit = |keys: &str| format!("[[limit]]\nname = \"a\"\nproto = \"tcp\"\nports = [22]\n{keys}");
    wrong(&limit(""), "1:1: `rate` is missing in [[limit]]; expected for example `rate = 10`");
    wrong(&limit("rate = 0"), "5:8: 0 is out of range; expected a number of new flows, 1 to 1000000");
    wrong(
        &limit("rate = 1\nburst = -1"),
        "6:9: -1 is out of range; expected a number of new flows, 1 to 1000000",
    );
    wrong(&limit("rate = 1.5"), "5:8: `rate` holds a float; expected a number of new flows, 1 to 1000000");
    wrong(
        &format!(
            "{}\n[[limit]]\nname = \"b\"\nproto = \"tcp\"\nports = [\"20-30\"]\nrate = 1",
            limit("rate = 1")
        ),
        "6:1: limit `b` has a port in common with limit `a` at line 1; expected one limit for each port",
    );
}

#[test]
fn sizes_out_of_range_are_refused() {
    wrong(
        "[tables]\nflows = 10",
        "2:9: `flows` is out of range; expected a number of entries, 1024 to 16777216",
    );
    wrong(
        "[tables]\nflows = 2048\nflows_per_container = 2049",
        "3:23: `flows_per_container` is out of range; expected a number of entries, 1 to 2048",
    );
    wrong("[tables]\nflow = 2048", "2:1: unknown key `flow` in [tables]; did you mean `flows`?");
}
