//! A vCenter that shows its collector's account less than there is: the simulator, behind a proxy that hides single properties of one machine as
//! a vCenter does whose account lacks a privilege.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::server::{eventually, http};
use crate::vcenter::{self, READ, Vcsim, info, stored, vm_id};

/// What the proxy hides.
struct Hiding {
    /// The machine's id there.
    machine: String,
    /// Paths of its properties.
    paths: Mutex<Vec<&'static str>>,
}

impl Hiding {
    /// Listens, and passes on to a simulator without TLS; answers its URL.
    fn start(self: &Arc<Self>, target: String) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let here = self.clone();
        std::thread::spawn(move || {
            let client = http(Duration::from_secs(60));
            for stream in listener.incoming().map_while(Result::ok) {
                let (here, client, target) = (here.clone(), client.clone(), target.clone());
                // A connection that breaks is the client's to mend.
                std::thread::spawn(move || here.serve(&stream, &client, &target));
            }
        });
        url
    }

    fn serve(&self, stream: &TcpStream, client: &Client, target: &str) -> Option<()> {
        let mut reader = BufReader::new(stream);
        loop {
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).ok()? == 0 {
                    return None;
                }
                match line.trim_end() {
                    "" => break,
                    line => lines.push(line.to_owned()),
                }
            }
            let mut words = lines.first()?.split(' ');
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let mut request = client.request(method.parse().ok()?, format!("{target}{path}"));
            let mut length = 0;
            for line in &lines[1..] {
                let (name, value) = line.split_once(": ")?;
                match &*name.to_lowercase() {
                    "content-length" => length = value.parse().ok()?,
                    "host" | "connection" | "accept-encoding" => {}
                    _ => request = request.header(name, value),
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let answer = request.body(body).send().ok()?;
            let mut head = format!("HTTP/1.1 {} x\r\n", answer.status().as_u16());
            for (name, value) in answer.headers() {
                if !matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection") {
                    head += &format!("{name}: {}\r\n", value.to_str().ok()?);
                }
            }
            let text = self.hide(&answer.text().ok()?);
            head += &format!("content-length: {}\r\n\r\n", text.len());
            let mut out = stream;
            out.write_all(head.as_bytes()).and_then(|()| out.write_all(text.as_bytes())).ok()?;
        }
    }

    /// An answer in which the machine's properties are missing, with the fault that says why.
    fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        let object = format!("<obj type=\"VirtualMachine\">{}</obj>", self.machine);
        let mut from = 0;
        while let Some(at) = text[from..].find(&object).map(|at| from + at) {
            let ends = ["</objects>", "</objectSet>"].into_iter().filter_map(|end| text[at..].find(end));
            let Some(end) = ends.min().map(|end| at + end) else { break };
            let mut told = text[at..end].to_owned();
            for path in self.paths.lock().unwrap().iter() {
                let Some(name) = told.find(&format!("<name>{path}</name>")) else { continue };
                let (tag, start) = ["propSet", "changeSet"]
                    .into_iter()
                    .filter_map(|tag| Some((tag, told[..name].rfind(&format!("<{tag}>"))?)))
                    .max_by_key(|(_, start)| *start)
                    .unwrap();
                let close = format!("</{tag}>");
                let stop = name + told[name..].find(&close).unwrap() + close.len();
                told.replace_range(start..stop, "");
                told += &format!(
                    "<missingSet><path>{path}</path><fault><fault xsi:type=\"NoPermission\">{object}\
                     <privilegeId>System.Read</privilegeId></fault><localizedMessage>no</localizedMessage></fault></missingSet>"
                )
                .replace("<obj ", "<object ")
                .replace("</obj>", "</object>");
            }
            text.replace_range(at..end, &told);
            from = at + told.len();
        }
        text
    }
}

/// Ends the collector's session there: the call that waits still tells what happens, the next one is refused, and all is read anew.
fn end_session(vcsim: &Vcsim, from: &str, to: &str) {
    let sessions = vcsim.govc(&["session.ls"]);
    let ours = sessions.lines().find(|line| line.contains("lockstep/")).unwrap_or_else(|| panic!("{sessions}"));
    vcsim.govc(&["session.rm", ours.split_whitespace().next().unwrap()]);
    vcsim.govc(&["object.rename", &format!("/DC0/vm/{from}"), to]);
}

#[test]
fn what_permissions_hide_is_shown_as_hidden_and_neither_guessed_nor_taken_for_gone() {
    if !vcenter::is_there() {
        return;
    }
    let vcsim = Vcsim::start(&["-vm", "2", "-tls=false"]);
    let machine = vm_id(&vcsim, "DC0_H0_VM0");
    let hiding = Arc::new(Hiding { machine: machine.clone(), paths: Mutex::default() });
    let url = hiding.start(format!("http://{}", vcsim.address()));
    let server = vcenter::server();
    let mut collect = server.cli(&["collect", "vcenter", &url, "--name", "vc", "--source-username", "user"]);
    let output = collect.arg("--source-password-file").arg(vcsim.password_file()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let of_machine = || stored(&server, "VirtualMachine", &machine);
    let whole = of_machine();
    assert_eq!(
        (&whole["memory_size_MiB"], whole["host"]["type"].as_str()),
        (&json!(32), Some("HostSystem")),
        "{whole}"
    );
    assert_eq!(info(&server, "vc")["hidden"], json!([]));
    let hidden = || -> Vec<String> {
        let all = info(&server, "vc")["hidden"].as_array().unwrap().clone();
        let text = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
        all.iter().map(|one| ["object_type", "property", "privilege"].map(|name| text(one, name)).join(" ")).collect()
    };
    let token = server.sequence();

    // The right is taken away while the collector follows: what comes next of the property is that it is hidden.
    hiding.paths.lock().unwrap().extend(["runtime.powerState", "runtime.host"]);
    vcsim.govc(&["vm.power", "-off", "DC0_H0_VM0"]);
    eventually(READ, "the power state is hidden", || of_machine().get("power_state").is_none().then_some(()));
    let told = server.ok("GET", &format!("/api/vcenter/vm/{machine}/power"), &json!(null));
    assert_eq!(told["state"], "UNKNOWN", "it is not guessed");
    assert_eq!(hidden(), ["VirtualMachine runtime.powerState System.Read"]);

    // A whole read tells all that is hidden, and deletes nothing for it.
    end_session(&vcsim, "DC0_H0_VM1", "first");
    eventually(READ, "the host is hidden", || of_machine().get("host").is_none().then_some(()));
    eventually(READ, "it follows", || (info(&server, "vc")["phase"] == "FOLLOWING").then_some(()));
    assert_eq!(hidden(), ["VirtualMachine runtime.host System.Read", "VirtualMachine runtime.powerState System.Read"]);
    let found = of_machine();
    assert_eq!((&found["name"], &found["memory_size_MiB"]), (&whole["name"], &whole["memory_size_MiB"]), "{found}");
    let other = stored(&server, "VirtualMachine", &vm_id(&vcsim, "first"));
    assert_eq!(other["power_state"], "POWERED_ON", "another machine's are shown");
    let shown = server.cli(&["collect", "show", "vc"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("runtime.host") && shown.contains("System.Read"), "{shown}");

    // Given back, all is as it is there.
    hiding.paths.lock().unwrap().clear();
    end_session(&vcsim, "first", "second");
    eventually(READ, "all is shown", || {
        let now = of_machine();
        (now["power_state"] == "POWERED_OFF" && now["host"] == whole["host"]).then_some(())
    });
    eventually(READ, "nothing is hidden", || hidden().is_empty().then_some(()));
    let (_, answer) = server.changes(&token);
    let changes = answer["value"]["changes"].as_array().unwrap();
    let stray = changes.iter().find(|change| change["kind"] != "UPDATE");
    assert!(stray.is_none(), "{stray:?}");
}
