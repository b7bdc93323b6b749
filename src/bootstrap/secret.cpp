#include "bootstrap/secret.hpp"

#include <sodium.h>

#include "mixcomm/error.hpp"

namespace mixcomm {
namespace {

static_assert(sizeof(Proof) == crypto_auth_BYTES);
static_assert(sizeof(Nonce) >= 16, "two of them must never be equal");

void start_sodium() {
  if (sodium_init() < 0) throw SystemError("libsodium finds no source of random bytes on this system");
}

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

}  // namespace

Nonce make_nonce() {
  start_sodium();
  Nonce nonce;
  randombytes_buf(nonce.data(), nonce.size());
  return nonce;
}

Secret::Secret(std::string_view text) {
  static_assert(sizeof(key_) == crypto_auth_KEYBYTES);
  // Secrets are of any length, keys of one. The context keeps other uses of the same secret apart.
  constexpr std::string_view context = "mixcomm rendezvous";
  start_sodium();
  crypto_generichash(key_.data(), key_.size(), bytes_of(text), text.size(), bytes_of(context),
                     context.size());
}

Proof Secret::prove(std::string_view statement) const {
  Proof proof;
  crypto_auth(proof.data(), bytes_of(statement), statement.size(), key_.data());
  return proof;
}

bool Secret::check(std::string_view statement, const Proof& proof) const {
  return crypto_auth_verify(proof.data(), bytes_of(statement), statement.size(), key_.data()) == 0;
}

}  // namespace mixcomm
