//! The fixed newstyle handshake up to `NBD_OPT_GO`.

use std::io::{Read, Write};

use super::HostError;

const HELLO: &[u8; 8] = b"NBDMAGIC";
const OPTION: &[u8; 8] = b"IHAVEOPT";
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const CLIENT_FIXED_NEWSTYLE_NO_ZEROES: u32 = 3;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERROR: u32 = 1 << 31;
const INFO_EXPORT: u16 = 0;
/// Longer than any option reply this client asks for.
const REPLY_BYTES_MAX: u32 = 64 << 10;

/// Shakes hands and asks for the export: its size and transmission flags.
pub(super) fn go(from: &mut impl Read, to: &mut impl Write, export: &str) -> Result<(u64, u16), HostError> {
    let greeting: [u8; 18] = take(from)?;
    if !greeting.starts_with(HELLO) || greeting[8..16] != *OPTION || greeting[17] & 1 == 0 {
        return Err(HostError::Protocol(format!("greeting {greeting:?}")));
    }
    to.write_all(&CLIENT_FIXED_NEWSTYLE_NO_ZEROES.to_be_bytes())?;
    to.write_all(&option(export))?;
    let mut found = None;
    loop {
        let (kind, data) = option_reply(from)?;
        match kind {
            REP_INFO => found = export_info(&data).or(found),
            REP_ACK => return found.ok_or_else(|| HostError::Protocol("no NBD_INFO_EXPORT before the ACK".into())),
            code if code & REP_ERROR != 0 => {
                return Err(HostError::Refused { code, message: String::from_utf8_lossy(&data).into_owned() });
            }
            other => return Err(HostError::Protocol(format!("option reply {other:#x}"))),
        }
    }
}

fn option(export: &str) -> Vec<u8> {
    let name_length = u32::try_from(export.len()).expect("an export name");
    let mut bytes = OPTION.to_vec();
    bytes.extend_from_slice(&OPT_GO.to_be_bytes());
    bytes.extend_from_slice(&(name_length + 6).to_be_bytes());
    bytes.extend_from_slice(&name_length.to_be_bytes());
    bytes.extend_from_slice(export.as_bytes());
    bytes.extend_from_slice(&0_u16.to_be_bytes());
    bytes
}

fn option_reply(from: &mut impl Read) -> Result<(u32, Vec<u8>), HostError> {
    let magic = u64::from_be_bytes(take(from)?);
    let option = u32::from_be_bytes(take(from)?);
    let kind = u32::from_be_bytes(take(from)?);
    let length = u32::from_be_bytes(take(from)?);
    if magic != OPTION_REPLY || option != OPT_GO || length > REPLY_BYTES_MAX {
        return Err(HostError::Protocol(format!("option reply {magic:#x} to {option} of {length} bytes")));
    }
    let mut data = vec![0; length as usize];
    from.read_exact(&mut data)?;
    Ok((kind, data))
}

fn export_info(data: &[u8]) -> Option<(u64, u16)> {
    let (kind, rest) = data.split_first_chunk::<2>()?;
    let (size, flags) = rest.split_first_chunk::<8>()?;
    let wanted = u16::from_be_bytes(*kind) == INFO_EXPORT;
    wanted.then(|| Some((u64::from_be_bytes(*size), u16::from_be_bytes(flags.try_into().ok()?)))).flatten()
}

fn take<const N: usize>(from: &mut impl Read) -> Result<[u8; N], HostError> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
