//! An agent's desk: the CTI WebSocket of a login.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{ClientRequestBuilder, Message, WebSocket, client};

pub struct Desk {
    orders: Sender<Order>,
    messages: Receiver<Value>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Say(Value),
    /// Cut the line without a word.
    Vanish,
}

impl Desk {
    /// Opens `cti.url` of a login's answer with its token.
    pub fn open(login: &Value) -> Desk {
        Desk::try_open(login).expect("the CTI answers")
    }

    /// The same, where nobody may answer.
    pub fn try_open(login: &Value) -> Option<Desk> {
        let url = login["cti"]["url"].as_str().expect("a URL");
        let host =
            url.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).expect("a URL");
        let token = login["token"].as_str().expect("a token");
        let request = ClientRequestBuilder::new(url.parse().expect("a URL"))
            .with_header("Authorization", format!("Bearer {token}"));
        let stream = host.to_socket_addrs().ok()?.next()?;
        let stream = TcpStream::connect_timeout(&stream, Duration::from_secs(1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let (mut socket, _) = client(request, MaybeTlsStream::Plain(stream)).ok()?;
        if let MaybeTlsStream::Plain(stream) = socket.get_mut() {
            stream.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
        }
        let (orders, to_desk) = channel();
        let (from_desk, messages) = channel();
        let thread = std::thread::spawn(move || serve(socket, &to_desk, &from_desk));
        Some(Desk { orders, messages, thread: Some(thread) })
    }

    /// True once the line is cut and all that came by it was taken.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for a message of that type.
    pub fn expect(&self, kind: &str) -> Value {
        let end = Instant::now() + Duration::from_secs(5);
        let mut seen = Vec::new();
        loop {
            match self.messages.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(message) if message["type"] == kind => return message,
                Ok(message) => seen.push(message),
                Err(RecvTimeoutError::Timeout) => panic!("no {kind}, but {seen:?}"),
                Err(RecvTimeoutError::Disconnected) => panic!("closed before {kind}: {seen:?}"),
            }
        }
    }

    /// The next message, when one comes in time.
    pub fn next(&self, limit: Duration) -> Option<Value> {
        self.messages.recv_timeout(limit).ok()
    }

    /// Says something, and waits for the reply with its id.
    pub fn order(&self, id: u64, order: &str) -> String {
        let message = json!({"v": 1, "type": order, "id": id});
        self.orders.send(Order::Say(message)).expect("the desk runs");
        let reply = self.expect("reply");
        assert_eq!(reply["id"], id, "{reply}");
        reply["result"].as_str().expect("a text").to_owned()
    }

    /// The same for an order with fields; the whole reply.
    pub fn ask(&self, mut order: Value) -> Value {
        order["id"] = json!(order["type"]);
        self.say(order.clone());
        let reply = self.expect("reply");
        assert_eq!(reply["id"], order["id"], "{reply}");
        reply
    }

    /// The same for an order that an event follows, which may be told before the reply.
    pub fn ask_for(&self, mut order: Value, kind: &str) -> Value {
        order["id"] = json!(order["type"]);
        self.say(order);
        let end = Instant::now() + Duration::from_secs(5);
        let (mut reply, mut event, mut seen) = (None, None, Vec::new());
        while reply.is_none() || event.is_none() {
            let next = self.next(end.saturating_duration_since(Instant::now()));
            match next {
                Some(message) if message["type"] == "reply" => reply = Some(message),
                Some(message) if message["type"] == kind => event = Some(message),
                Some(message) => seen.push(message),
                None => panic!("no {kind} with its reply, but {reply:?} {event:?} {seen:?}"),
            }
        }
        reply.unwrap_or_default()
    }

    /// Says something whose reply comes among other messages.
    pub fn say(&self, message: Value) {
        // Who never gets an answer says so.
        let _ = self.orders.send(Order::Say(message));
    }

    pub fn exit(&self) {
        self.orders.send(Order::Say(json!({"v": 1, "type": "exit"}))).expect("the desk runs");
    }

    pub fn vanish(&mut self) {
        // Whose control is dead may have noticed it already.
        let _ = self.orders.send(Order::Vanish);
        self.thread.take().expect("once").join().expect("the desk ends well");
    }
}

fn serve(
    mut socket: WebSocket<MaybeTlsStream<TcpStream>>,
    orders: &Receiver<Order>,
    out: &Sender<Value>,
) {
    loop {
        match orders.try_recv() {
            Ok(Order::Say(message)) => {
                if socket.send(Message::text(message.to_string())).is_err() {
                    return;
                }
            }
            Ok(Order::Vanish) | Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            Err(std::sync::mpsc::TryRecvError::Empty) => {}
        }
        // Reading also answers the server's pings.
        match socket.read() {
            Ok(Message::Text(text)) => {
                let _ = out.send(serde_json::from_str(&text).expect("JSON"));
            }
            Ok(_) => {}
            Err(tungstenite::Error::Io(error))
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => return,
        }
    }
}
