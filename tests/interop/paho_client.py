"""Paho's client for Python against a broker: paho_client.py HOST PORT [tcp | websockets] [CA], over TLS if there is a
file with the certificate of a CA"""

import queue
import socket
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST, PORT = sys.argv[1], int(sys.argv[2])
TRANSPORT = sys.argv[3] if len(sys.argv) > 3 else "tcp"
CA = sys.argv[4] if len(sys.argv) > 4 else None
RUN = f"{time.time_ns():x}"
WAIT = 10
NAMES = {mqtt.MQTTv31: "3.1", mqtt.MQTTv311: "3.1.1", mqtt.MQTTv5: "5"}


class Client:
    """A client that keeps what happens to it in queues."""

    def __init__(self, version=mqtt.MQTTv5, client_id=None, clean=True, expiry=None, will=None,
                 connect_properties=None, receive=True):
        self.version = version
        self.messages, self.acks, self.subacks = queue.Queue(), queue.Queue(), queue.Queue()
        self.unsubacks, self.connacks, self.ends = queue.Queue(), queue.Queue(), queue.Queue()
        v5 = version == mqtt.MQTTv5
        if client_id is None:
            client_id = "" if v5 else f"c{time.time_ns() % 10**15:x}"
        session = {} if v5 else {"clean_session": clean}
        self.paho = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id,
                                protocol=version, transport=TRANSPORT, **session)
        if CA:
            self.paho.tls_set(CA)
        self.paho.on_connect = lambda c, u, flags, reason, p: self.connacks.put((flags, reason, p))
        self.paho.on_message = lambda c, u, message: self.messages.put(message)
        self.paho.on_publish = lambda c, u, mid, reason, p: self.acks.put((mid, reason))
        self.paho.on_subscribe = lambda c, u, mid, reasons, p: self.subacks.put(reasons)
        self.paho.on_unsubscribe = lambda c, u, mid, reasons, p: self.unsubacks.put(reasons)
        self.paho.on_disconnect = lambda c, u, flags, reason, p: self.ends.put((flags, reason))
        self.paho.reconnect_delay_set(60, 60)
        if will:
            self.paho.will_set(**will)
        extra = {}
        if v5:
            properties = Properties(PacketTypes.CONNECT)
            if expiry is not None:
                properties.SessionExpiryInterval = expiry
            for name, value in (connect_properties or {}).items():
                setattr(properties, name, value)
            extra = {"clean_start": clean, "properties": properties}
        self.paho.connect(HOST, PORT, keepalive=30, **extra)
        self.paho.loop_start()
        self.flags, self.reason, self.connack = self.connacks.get(timeout=WAIT)
        check(not self.reason.is_failure, f"connected: {self.reason}")

    def subscribe(self, topic, qos=0, **options):
        identifier = options.pop("identifier", None)
        if self.version == mqtt.MQTTv5:
            properties = None
            if identifier:
                properties = Properties(PacketTypes.SUBSCRIBE)
                properties.SubscriptionIdentifier = identifier
            self.paho.subscribe(topic, options=SubscribeOptions(qos=qos, **options),
                                properties=properties)
        else:
            self.paho.subscribe(topic, qos)
        return self.subacks.get(timeout=WAIT)

    def unsubscribe(self, topic):
        self.paho.unsubscribe(topic)
        return self.unsubacks.get(timeout=WAIT)

    def publish(self, topic, payload, qos=1, retain=False, **properties):
        extra = {}
        if properties:
            extra["properties"] = Properties(PacketTypes.PUBLISH)
            for name, value in properties.items():
                setattr(extra["properties"], name, value)
        self.paho.publish(topic, payload, qos, retain, **extra)
        return self.acks.get(timeout=WAIT)[1]

    def receive(self):
        return self.messages.get(timeout=WAIT)

    def silent(self, seconds=0.7):
        try:
            message = self.messages.get(timeout=seconds)
        except queue.Empty:
            return True
        print(f"unexpected: {message.topic} {message.payload!r}", file=sys.stderr)
        return False

    def close(self):
        self.paho.disconnect()
        self.paho.loop_stop()

    def die(self):
        """Ends the connection without a DISCONNECT, for good."""
        self.paho.on_disconnect = None
        raw = self.paho.socket()
        raw = getattr(raw, "_socket", raw)  # beneath WebSocket
        self.paho._thread_terminate = True
        raw.shutdown(socket.SHUT_RDWR)
        self.paho.loop_stop()


def check(right, what):
    if not right:
        raise AssertionError(what)


def equal(got, wanted):
    check(got == wanted, f"got {got!r}, wanted {wanted!r}")


def every_qos(version):
    topic = f"paho/{RUN}/{version}/qos"
    for granted in (0, 1, 2):
        receiver, sender = Client(version), Client(version)
        reasons = receiver.subscribe(topic, granted)
        equal([reason.value for reason in reasons], [granted])
        for sent in (0, 1, 2):
            check(not sender.publish(topic, f"{sent}", sent).is_failure, "acknowledged")
        got = sorted((m.payload, m.qos, m.retain, m.dup) for m in (receiver.receive() for _ in "abc"))
        equal(got, [(str(sent).encode(), min(sent, granted), False, False) for sent in (0, 1, 2)])
        receiver.close(), sender.close()


def order_and_number(version):
    topic = f"paho/{RUN}/{version}/order"
    receiver, sender = Client(version), Client(version)
    for qos in (0, 1, 2):
        receiver.subscribe(topic, qos)
        for number in range(500):
            sender.paho.publish(topic, f"{number}", qos)
        equal([int(receiver.receive().payload) for _ in range(500)], list(range(500)))
    check(receiver.silent(), "nothing comes twice")
    receiver.close(), sender.close()


def retained(version):
    topic = f"paho/{RUN}/{version}/retained"
    sender = Client(version)
    sender.publish(topic, "old", retain=True)
    sender.publish(topic, "new", retain=True)
    receiver = Client(version)
    receiver.subscribe(f"paho/{RUN}/{version}/+", 1)
    message = receiver.receive()
    equal((message.payload, message.retain), (b"new", True))
    sender.publish(topic, "live", retain=True)
    equal(receiver.receive().retain, False)
    sender.publish(topic, "", retain=True)
    equal(receiver.receive().payload, b"")
    receiver.subscribe(f"paho/{RUN}/{version}/+", 1)
    check(receiver.silent(), "nothing is retained any more")
    receiver.close(), sender.close()


def wills(version):
    topic = f"paho/{RUN}/{version}/will"
    receiver = Client(version)
    receiver.subscribe(topic, 2)
    Client(version, will={"topic": topic, "payload": "dead", "qos": 2}).die()
    message = receiver.receive()
    equal((message.payload, message.qos), (b"dead", 2))
    Client(version, will={"topic": topic, "payload": "dead", "qos": 2}).close()
    check(receiver.silent(), "no will after DISCONNECT")
    receiver.close()


def kept_session(version):
    topic, name = f"paho/{RUN}/{version}/kept", f"kept-{RUN}-{version}"
    first = Client(version, name, clean=False, expiry=300)
    equal(first.flags.session_present, False)
    first.subscribe(topic, 2)
    first.close()
    sender = Client(version)
    for number in range(50):
        sender.publish(topic, f"{number}", 1 + number % 2)
    second = Client(version, name, clean=False, expiry=300)
    # The CONNACK of 3.1 has no such flag.
    equal(second.flags.session_present, version != mqtt.MQTTv31)
    got = [second.receive() for _ in range(50)]
    by_qos = [[int(m.payload) for m in got if m.qos == qos] for qos in (1, 2)]
    equal(by_qos, [list(range(0, 50, 2)), list(range(1, 50, 2))])
    second.close()
    third = Client(version, name, clean=True)
    equal(third.flags.session_present, False)
    sender.publish(topic, "x")
    check(third.silent(), "the subscription is gone")
    third.close(), sender.close()


def unsubscribing(version):
    topic = f"paho/{RUN}/{version}/unsubscribe"
    client = Client(version)
    client.subscribe(topic, 1)
    reasons = client.unsubscribe(topic)
    if version == mqtt.MQTTv5:
        equal([reason.value for reason in reasons], [0x00])
        equal([reason.value for reason in client.unsubscribe(topic)], [0x11])
    client.publish(topic, "x")
    check(client.silent(), "unsubscribed")
    client.close()


def takeover(version):
    name = f"same-{RUN}-{version}"
    first = Client(version, name)
    second = Client(version, name)
    _, reason = first.ends.get(timeout=WAIT)
    if version == mqtt.MQTTv5:
        equal(reason.value, 0x8E)
    first.paho.loop_stop()
    second.close()


def connack_properties():
    client = Client(connect_properties={"RequestResponseInformation": 1})
    check(client.connack.AssignedClientIdentifier, "an identifier is assigned")
    for name in ("ReceiveMaximum", "TopicAliasMaximum"):
        check(getattr(client.connack, name, 0) > 0, f"{name} is stated")
    client.close()


def subscription_options():
    topic = f"paho/{RUN}/options"
    own, other = Client(), Client()
    own.subscribe(topic, 1, noLocal=True)
    own.publish(topic, "own")
    other.publish(topic, "other", retain=True)
    message = own.receive()
    equal((message.payload, message.retain), (b"other", False))
    own.subscribe(topic, 1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
    check(own.silent(), "no retained message for a subscription that is there")
    own.unsubscribe(topic)
    own.subscribe(topic, 1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
    check(own.silent(), "no retained message where none is wanted")
    own.subscribe(topic, 1, retainAsPublished=True)
    equal(own.receive().payload, b"other")
    other.publish(topic, "kept", retain=True)
    equal(own.receive().retain, True)
    other.publish(topic, "", retain=True)
    own.close(), other.close()


def subscription_identifiers():
    client = Client()
    client.subscribe(f"paho/{RUN}/ids/+", 1, identifier=7)
    client.subscribe(f"paho/{RUN}/ids/#", 2, identifier=300000)
    client.publish(f"paho/{RUN}/ids/a", "x", qos=2)
    seen = []
    while len(seen) < 2:
        message = client.receive()
        seen += message.properties.SubscriptionIdentifier
    equal(sorted(seen), [7, 300000])
    client.close()


def properties_pass_through():
    topic = f"paho/{RUN}/properties"
    client = Client()
    client.subscribe(topic, 1)
    pairs = [("b", "1"), ("a", "2"), ("b", "3")]
    client.publish(topic, "x", UserProperty=pairs, ContentType="text/plain",
                   ResponseTopic="there", CorrelationData=b"\x00\x01",
                   PayloadFormatIndicator=1, MessageExpiryInterval=100)
    got = client.receive().properties
    equal(got.UserProperty, pairs)
    equal((got.ContentType, got.ResponseTopic), ("text/plain", "there"))
    equal((got.CorrelationData, got.PayloadFormatIndicator), (b"\x00\x01", 1))
    check(98 <= got.MessageExpiryInterval <= 100, "the expiry is counted down")
    client.close()


def topic_aliases():
    topic = f"paho/{RUN}/alias"
    receiver, sender = Client(connect_properties={"TopicAliasMaximum": 10}), Client()
    receiver.subscribe(topic, 1)
    sender.publish(topic, "first", TopicAlias=1)
    sender.publish("", "second", TopicAlias=1)
    equal([receiver.receive().payload for _ in range(2)], [b"first", b"second"])
    receiver.close(), sender.close()


def will_delay():
    topic, name = f"paho/{RUN}/delay", f"delay-{RUN}"
    receiver = Client()
    receiver.subscribe(topic, 1)
    properties = Properties(PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = 2
    will = {"topic": topic, "payload": "late", "qos": 1, "properties": properties}
    Client(client_id=name, clean=False, expiry=300, will=will).die()
    check(receiver.silent(1), "it waits")
    equal(receiver.receive().payload, b"late")
    Client(client_id=name, clean=False, expiry=300, will=will).die()
    back = Client(client_id=name, clean=False, expiry=300)
    check(receiver.silent(3), "who comes back in time is not dead")
    back.close(), receiver.close()


def shared_subscriptions():
    topic = f"paho/{RUN}/shared"
    members = [Client() for _ in range(3)]
    for member in members:
        member.subscribe(f"$share/group/{topic}", 1)
    sender = Client()
    for number in range(90):
        sender.publish(topic, f"{number}")
    deadline = time.time() + WAIT
    while sum(m.messages.qsize() for m in members) < 90 and time.time() < deadline:
        time.sleep(0.05)
    got = [[int(m.messages.get().payload) for _ in range(m.messages.qsize())] for m in members]
    equal(sorted(sum(got, [])), list(range(90)))
    check(all(got), "everyone gets some")
    for client in members + [sender]:
        client.close()


def receive_maximum_holds_messages_back():
    topic = f"paho/{RUN}/window"
    receiver = Client(connect_properties={"ReceiveMaximum": 2})
    receiver.subscribe(topic, 2)
    sender = Client()
    for number in range(200):
        sender.paho.publish(topic, f"{number}", 2)
    equal([int(receiver.receive().payload) for _ in range(200)], list(range(200)))
    receiver.close(), sender.close()


def maximum_packet_size_is_kept():
    topic = f"paho/{RUN}/size"
    receiver, sender = Client(connect_properties={"MaximumPacketSize": 200}), Client()
    receiver.subscribe(topic, 1)
    sender.publish(topic, "x" * 1000)
    sender.publish(topic, "small")
    equal(receiver.receive().payload, b"small")
    receiver.close(), sender.close()


def main():
    for version, name in NAMES.items():
        for test in (every_qos, order_and_number, retained, wills, kept_session, unsubscribing,
                     takeover):
            print(f"paho: {test.__name__.replace('_', ' ')}, version {name}", flush=True)
            test(version)
    for test in (connack_properties, subscription_options, subscription_identifiers,
                 properties_pass_through, topic_aliases, will_delay, shared_subscriptions,
                 receive_maximum_holds_messages_back, maximum_packet_size_is_kept):
        print(f"paho: {test.__name__.replace('_', ' ')}", flush=True)
        test()
    print(f"paho: all right over {TRANSPORT}")


main()
