//! A wireserver on 127.0.0.1.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
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
    Status(u16),
    /// More bytes than anybody should read.
    Flood,
    /// Accepts and stays silent.
    Silence,
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
                let answer = answer.lock().unwrap().clone();
                thread::spawn(move || serve(stream, &answer));
            }
        });
        server
    }

    pub fn set(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, answer: &Answer) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let request = lines.next().unwrap().unwrap();
    let expected = "GET /machine/plugins?comp=nmagent&type=getinterfaceinfov1 HTTP/1.1";
    let mut stream = stream;
    // The client may have gone by now: nothing to report.
    let _ = match answer {
        _ if request != expected => write!(stream, "HTTP/1.1 400 Bad Request\r\n\r\n{request}"),
        Answer::Xml(xml) => write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{xml}",
            xml.len()
        ),
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
