//! CONNECT, built field by field (section 3.1).

use super::property::{self, Property};
use super::wire::{self, Version, field};

/// A CONNECT packet to be.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) will: Option<Will>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) properties: Vec<Property>,
}

/// The Will Message of a CONNECT.
#[derive(Clone, Debug)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: Vec<Property>,
}

impl Will {
    pub(crate) fn new(topic: &str, payload: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.into(),
            qos: 0,
            retain: false,
            properties: Vec::new(),
        }
    }

    pub(crate) fn qos(mut self, qos: u8) -> Self {
        self.qos = qos;
        self
    }

    pub(crate) fn retain(mut self) -> Self {
        self.retain = true;
        self
    }

    pub(crate) fn with(mut self, property: Property) -> Self {
        self.properties.push(property);
        self
    }
}

impl Connect {
    /// Clean, without keep alive, will, user name or properties.
    pub(crate) fn new(version: Version, client_id: &str) -> Self {
        Self {
            version,
            client_id: client_id.to_owned(),
            clean: true,
            keep_alive: 0,
            will: None,
            username: None,
            password: None,
            properties: Vec::new(),
        }
    }

    /// A session that stays when the connection goes: Clean Session 0 up to 3.1.1, and an hour of
    /// Session Expiry Interval besides in version 5.
    pub(crate) fn lasting(version: Version, client_id: &str) -> Self {
        let connect = Self::new(version, client_id).resume();
        if version.is_v5() { connect.with(property::session_expiry(3600)) } else { connect }
    }

    /// Clean Session, in version 5 Clean Start, set to 0.
    pub(crate) fn resume(mut self) -> Self {
        self.clean = false;
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub(crate) fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub(crate) fn with(mut self, property: Property) -> Self {
        assert!(self.version.is_v5(), "properties came with version 5");
        self.properties.push(property);
        self
    }

    /// With a User Name and a Password.
    pub(crate) fn user(mut self, username: &str, password: &str) -> Self {
        self.username = Some(username.to_owned());
        self.password = Some(password.into());
        self
    }

    /// The Connect Flags that go with the fields.
    pub(crate) fn flags(&self) -> u8 {
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        flags | u8::from(self.password.is_some()) << 6 | u8::from(self.username.is_some()) << 7
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_with_flags(self.flags())
    }

    /// The packet with other Connect Flags than its fields call for.
    pub(crate) fn bytes_with_flags(&self, flags: u8) -> Vec<u8> {
        let name = if self.version == Version::V31 { "MQIsdp" } else { "MQTT" };
        let mut body = field(name);
        body.extend([self.version as u8, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.version.is_v5() {
            body.extend(property::block(&self.properties));
        }
        body.extend(field(&self.client_id));
        if let Some(will) = &self.will {
            if self.version.is_v5() {
                body.extend(property::block(&will.properties));
            }
            body.extend(field(&will.topic));
            body.extend(field(&will.payload));
        }
        body.extend(self.username.iter().flat_map(field));
        body.extend(self.password.iter().flat_map(field));
        wire::packet(wire::CONNECT, &body)
    }
}
