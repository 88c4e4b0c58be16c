//! A wireserver on 127.0.0.1.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// A wireserver whose answer can be changed. Its thread ends with the test process.
pub struct Wireserver {
    pub address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
    requests: Arc<AtomicUsize>,
}

#[derive(Clone)]
pub enum Answer {
    Xml(String),
    /// To the question of the metadata service, with its header.
    Imds(String),
    /// The first, and from then on the second.
    Once(Box<Answer>, Box<Answer>),
    /// Once the gate is open.
    XmlBehind(Arc<Gate>, String),
    Status(u16),
    /// More bytes than anybody should read.
    Flood,
    /// Accepts and stays silent.
    Silence,
}

/// What an answer waits for.
#[derive(Default)]
pub struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn wait(&self) {
        let closed = self.is_open.lock().unwrap();
        drop(self.opened.wait_while(closed, |is_open| !*is_open).unwrap());
    }
}

impl Wireserver {
    /// A VM with one NIC: 10.20.0.4 is its own, `pods` more are for pods from 10.20.0.5 on.
    pub fn with(pods: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Wireserver {
            address: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(Answer::Xml(nic(pods)))),
            requests: Arc::default(),
        };
        let (answer, requests) = (server.answer.clone(), server.requests.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                requests.fetch_add(1, Ordering::SeqCst);
                let mut current = answer.lock().unwrap();
                let answer = match current.clone() {
                    Answer::Once(first, then) => {
                        *current = *then;
                        *first
                    }
                    other => other,
                };
                drop(current);
                thread::spawn(move || serve(stream, &answer));
            }
        });
        server
    }

    pub fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// One answer now, another from the second question on.
    pub fn set_in_turn(&self, first: Answer, then: Answer) {
        self.set(Answer::Once(Box::new(first), Box::new(then)));
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, answer: &Answer) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let (target, header) = match answer {
        Answer::Imds(_) => (
            "/metadata/instance/network?api-version=2021-02-01",
            Some("metadata: true"),
        ),
        _ => (
            "/machine/plugins?comp=nmagent&type=getinterfaceinfov1",
            None,
        ),
    };
    let expected = head.first() == Some(&format!("GET {target} HTTP/1.1"))
        && header.is_none_or(|header| head.iter().any(|line| line.to_lowercase() == header));
    let mut stream = stream;
    let mut text = |text: &str| {
        let length = text.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}"
        )
    };
    // The client may have gone by now: nothing to report.
    let _ = match answer {
        _ if !expected => write!(stream, "HTTP/1.1 400 Bad Request\r\n\r\n{head:?}"),
        Answer::Xml(body) | Answer::Imds(body) => text(body),
        Answer::XmlBehind(gate, body) => {
            gate.wait();
            text(body)
        }
        Answer::Once(first, _) => unreachable!("{:?}", std::mem::discriminant(&**first)),
        Answer::Status(status) => write!(stream, "HTTP/1.1 {status} No\r\n\r\n"),
        Answer::Flood => {
            let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\n<Interfaces>");
            (0..800).try_for_each(|_| stream.write_all(&[b' '; 16384]))
        }
        Answer::Silence => {
            // Until the client hangs up.
            lines.by_ref().for_each(drop);
            Ok(())
        }
    };
}

/// Its document for such a VM.
pub fn nic(pods: usize) -> String {
    let pods = (5..5 + pods)
        .map(|host| format!(r#"<IPAddress Address="10.20.0.{host}" IsPrimary="false"/>"#));
    format!(
        r#"<Interfaces><Interface MacAddress="000D3A112233" IsPrimary="true"><IPSubnet Prefix="10.20.0.0/22">
           <IPAddress Address="10.20.0.4" IsPrimary="true"/>{}</IPSubnet></Interface></Interfaces>"#,
        pods.collect::<String>()
    )
}
