//! A source that does what the simulator does not: pages its answers, hides properties, tells parts, forgets where it was.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_contract::services::collectors::{self, CollectorInput, CreateInput, CreateSpec, Info, Kind, Phase};
use lockstep_contract::{Data, Declared, Encoding, Place, PlainJson, Secret, Wire};
use lockstep_model::{ResourceId, Value};
use lockstep_site::caller::Caller;
use lockstep_site::table::{Context, Table};
use lockstep_site::{Config, Site};
use lockstep_vsphere::Collectors;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[path = "support/session.rs"]
mod session;

const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";

/// What the source was asked, and what it says to it.
#[derive(Default)]
struct Script {
    calls: Mutex<Vec<String>>,
    /// How many times everything was read from the beginning.
    reads: Mutex<usize>,
}

fn vm(id: &str, kind: &str, changes: &[(&str, &str)]) -> String {
    let changes: String = changes
        .iter()
        .map(|(name, value)| format!("<changeSet><name>{name}</name><op>assign</op>{value}</changeSet>"))
        .collect();
    format!("<objectSet><kind>{kind}</kind><obj type=\"VirtualMachine\">{id}</obj>{changes}</objectSet>")
}

fn named(id: &str, name: &str) -> String {
    let parent = "<val type=\"Folder\" xsi:type=\"ManagedObjectReference\">group-v1</val>";
    vm(id, "enter", &[("name", &format!("<val xsi:type=\"xsd:string\">{name}</val>")), ("parent", parent)])
}

fn update_set(version: &str, objects: &str, is_truncated: bool) -> String {
    format!(
        "<returnval><version>{version}</version><filterSet><filter type=\"PropertyFilter\">f</filter>{objects}</filterSet>\
         <truncated>{is_truncated}</truncated></returnval>"
    )
}

fn response(method: &str, content: &str) -> String {
    format!("<{method}Response xmlns=\"urn:vim25\">{content}</{method}Response>")
}

impl Script {
    /// Status and content of the answer to a call.
    fn answer(&self, method: &str, body: &str) -> (u16, String) {
        self.calls.lock().push(method.to_owned());
        let between = |from: &str, to: &str| {
            let after = body.split_once(from).map_or("", |(_, after)| after);
            after.split_once(to).map_or("", |(found, _)| found).to_owned()
        };
        let folder = "<propSet><name>name</name><val>vm</val></propSet>";
        if let Some(content) = session::answer(method) {
            return (200, response(method, content));
        }
        let content = match method {
            "RetrievePropertiesEx" if body.contains("<type>Folder</type>") && body.contains("ContainerView") => {
                // The first of two pages.
                format!(
                    "<returnval><token>more</token><objects><obj type=\"Folder\">group-d1</obj>{folder}</objects></returnval>"
                )
            }
            "ContinueRetrievePropertiesEx" => {
                assert_eq!(between("<token>", "</token>"), "more");
                let parent = "<propSet><name>parent</name><val type=\"Folder\">group-d1</val></propSet>";
                format!("<returnval><objects><obj type=\"Folder\">group-v1</obj>{folder}{parent}</objects></returnval>")
            }
            // One machine by its name, whole.
            "RetrievePropertiesEx" if body.contains(">vm-2</obj>") => {
                "<returnval><objects><obj type=\"VirtualMachine\">vm-2</obj>\
                <propSet><name>name</name><val>two</val></propSet>\
                <propSet><name>config.hardware.device</name><val><VirtualDevice xsi:type=\"VirtualDisk\">\
                <capacityInBytes>7</capacityInBytes></VirtualDevice></val></propSet></objects></returnval>"
                    .to_owned()
            }
            "RetrievePropertiesEx" => String::new(),
            "WaitForUpdatesEx" => {
                let version = between("<version>", "</version>");
                if version.is_empty() {
                    *self.reads.lock() += 1;
                }
                match (&*version, *self.reads.lock()) {
                    ("", _) => {
                        let name = "<val>vm</val>";
                        let root = vm("group-d1", "enter", &[("name", name)]);
                        let parent = "<val type=\"Folder\">group-d1</val>";
                        let inner = vm("group-v1", "enter", &[("name", name), ("parent", parent)]);
                        let folders = [root, inner].concat().replace("\"VirtualMachine\"", "\"Folder\"");
                        update_set("1", &format!("{folders}{}", named("vm-1", "one")), true)
                    }
                    ("1", _) => {
                        let hidden = "<missingSet><path>config.annotation</path><fault><fault xsi:type=\"NoPermission\">\
                            <privilegeId>System.Read</privilegeId></fault></fault></missingSet></objectSet>";
                        let two = named("vm-2", "two").replace("</objectSet>", hidden);
                        update_set("2", &format!("{two}{}", named("vm-3", "three")), false)
                    }
                    // The second time the source has lost a machine meanwhile, and says nothing more.
                    ("2", 1) => {
                        let part =
                            vm("vm-2", "modify", &[("config.hardware.device[2000].capacityInBytes", "<val>7</val>")]);
                        update_set("3", &format!("{part}{}", vm("vm-3", "leave", &[])), false)
                    }
                    ("3", 1) => {
                        let fault = "<soapenv:Fault><faultcode>x</faultcode><faultstring>no</faultstring><detail>\
                            <InvalidCollectorVersionFault xsi:type=\"InvalidCollectorVersion\"/></detail></soapenv:Fault>";
                        return (500, fault.to_owned());
                    }
                    _ => String::new(),
                }
            }
            _ => String::new(),
        };
        (200, response(method, &content))
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let mut buffer = Vec::new();
        loop {
            let (head, length) = loop {
                let text = String::from_utf8_lossy(&buffer).into_owned();
                if let Some((head, _)) = text.split_once("\r\n\r\n") {
                    let length =
                        head.to_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ").map(str::to_owned));
                    break (head.len() + 4, length.unwrap().trim().parse::<usize>().unwrap());
                }
                if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
            };
            while buffer.len() < head + length {
                if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            let body = String::from_utf8(buffer[head..head + length].to_vec()).unwrap();
            buffer.drain(..head + length);
            let method = body.split_once("<soapenv:Body><").unwrap().1.split([' ', '>']).next().unwrap().to_owned();
            let (status, content) = self.answer(&method, &body);
            if method == "WaitForUpdatesEx"
                && content.contains("</WaitForUpdatesExResponse>")
                && !content.contains("returnval")
            {
                // Nothing happens.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let xml = format!(
                "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:xsi=\"{XSI}\">\
                 <soapenv:Body>{content}</soapenv:Body></soapenv:Envelope>"
            );
            let head = format!(
                "HTTP/1.1 {status} x\r\ncontent-type: text/xml\r\nset-cookie: vmware_soap_session=s; Path=/\r\ncontent-length: {}\r\n\r\n",
                xml.len()
            );
            if stream.write_all(format!("{head}{xml}").as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

struct Here {
    site: Arc<Site>,
    table: Table,
    _dir: tempfile::TempDir,
}

impl Here {
    fn open() -> (Self, Arc<Collectors>) {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            name: "here".into(),
            data_dir: dir.path().to_owned(),
            journal: Default::default(),
            query_limits: Default::default(),
            sessions: Default::default(),
            epoch_types: Vec::new(),
        };
        let site = Site::open(config, &mut |_| {}).unwrap();
        let collectors = Collectors::open(site.clone(), |_, _| Vec::new()).unwrap();
        let mut table = Table::default();
        collectors.register(&mut table);
        (Self { site, table, _dir: dir }, collectors)
    }

    async fn call<O: Declared>(&self, _: O, input: O::Input) -> O::Output {
        let index = self.table.find(O::OPERATION.service, O::OPERATION.name).unwrap();
        let context = Context { site: self.site.clone(), caller: Caller::Server("test"), operation_id: "test".into() };
        let reread = |json: PlainJson| Data::from_json(&json.out).unwrap();
        let mut json = PlainJson::default();
        input.encode(&mut json);
        let answer = self.table.entries()[index].call(context, reread(json), Encoding::Plain, false).await.unwrap();
        let mut json = PlainJson::default();
        answer.value.encode(&mut json);
        O::Output::decode(reread(json), &Place::root(Encoding::Plain)).unwrap()
    }

    async fn info(&self) -> Info {
        self.call(collectors::Get, CollectorInput { collector: "esx".into() }).await
    }

    fn machines(&self) -> BTreeSet<String> {
        self.site.view().ids("VirtualMachine", None).map(|id| id.id.to_string()).collect()
    }
}

async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_parts_hidden_properties_and_lost_places_are_taken_for_what_they_are() {
    let script = Arc::new(Script::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let serving = script.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serving.clone().serve(stream));
        }
    });
    let (here, collectors) = Here::open();
    let spec = CreateSpec {
        name: Some("esx".into()),
        kind: Kind::Vcenter,
        address,
        user: "u".into(),
        password: Secret("p".into()),
        ssl_thumbprint: None,
        id_prefix: None,
    };
    assert_eq!(here.call(collectors::Create, CreateInput { spec }).await, "esx");
    // A part of a property made the source be asked for the whole, and the machine that left is gone.
    let disk = |here: &Here| {
        let stored = here.site.view().get(&ResourceId::new("VirtualMachine", "vm-2"));
        stored.and_then(|stored| stored.document.get("disks").cloned())
    };
    eventually("the whole is read", async || disk(&here).is_some()).await;
    // It forgot where it was: everything is read again, and what was back is back.
    eventually("it is read again", async || *script.reads.lock() == 2 && here.machines().len() == 3).await;
    eventually("it follows", async || here.info().await.phase == Phase::Following).await;
    assert!(matches!(disk(&here), None | Some(Value::List(_))), "what is not told is not set");
    let info = here.info().await;
    assert_eq!(here.machines(), ["vm-1", "vm-2", "vm-3"].map(str::to_owned).into());
    let hidden = &info.hidden[0];
    assert_eq!(
        (&*hidden.object_type, &*hidden.property, &*hidden.privilege, hidden.objects),
        ("VirtualMachine", "config.annotation", "System.Read", 1)
    );
    let vm = ResourceId::new("VirtualMachine", "vm-1");
    let parents: Vec<String> = here.site.view().parents(&vm).iter().map(|id| id.id.to_string()).collect();
    assert_eq!(parents, ["group-v1", "group-d1"], "both pages were read");
    assert!(info.error.is_none(), "{:?}", info.error);
    let calls = script.calls.lock().clone();
    assert!(calls.iter().any(|call| call == "ContinueRetrievePropertiesEx"), "{calls:?}");
    collectors.stop().await;
    assert_eq!(script.calls.lock().last().map(String::as_str), Some("Logout"));
    here.site.close();
}
