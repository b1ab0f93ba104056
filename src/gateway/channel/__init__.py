"""The platform-neutral contract between chat platforms and the rest of the gateway. Pure: no I/O, no platform word.

How to add a platform
---------------------

Write a function that registers the platform, and put it into `daemon.platforms.PLATFORMS`. Nothing else has to know.
The tests serve such a platform beside Lark, so its adapter is an example that works.

*The slug* is short and never changes: it is stored in every row as `channel_type`, and it appears in metrics.

*The channel* implements `channel.channel.Channel`. `run` holds the link to the platform. It calls `started()` once the
platform has accepted the bot. It registers with `ChannelConfig.fence` a function that cuts the link without waiting,
and it updates `ChannelConfig.health`. It raises LinkRefused when the platform rejects the bot, and LinkLost when trying
again may help; both may come in an exception group. When it is cancelled, it has one second to settle the messages it
already received. It passes every received message to `ChannelConfig.handler`, messages of one chat in the order in
which they arrived. SETTLED means: acknowledge the message to the platform. REDELIVER or an exception means: make the
platform send the message again. If the platform never sends a message twice, the channel itself has to repeat it.

*An incoming message* is a `channel.message.InboundMessage`. Ids are the platform's own, and only have to be unique for
one bot: two deliveries with the same `message_id` are the same message. `app_id` is the bot, and `command_text` is what
the sender typed. In groups, a message is dropped before it is stored unless `addressed_to_bot` is true. `sent_at`
decides when a command is too old to be obeyed. An event that cannot be used may be passed with a `problem`: it is
recorded without its words, and dropped.

*An outgoing message* is a `channel.message.OutboundMessage`, passed to `Channel.send`. It goes to a chat, or to a
person who has to be asked to bind an account. Failures are those of `channel.errors`; each of them says whether the
message may have been sent. The platform declares its rate limits (`Traits.limits`), and for how long it drops a
repeated message with the same `idempotency_key` (`Traits.key_seconds`). If it keeps no keys, a message whose result is
unknown is looked for on the platform, and is never sent again blindly.

*The installation* is a row of `channel_installation`: the type, an agent, and a JSON config. Only the adapter reads the
config, except for three kinds of key. `app_id` is required, names the bot, and is unique for the type. A key that ends
in `_encrypted` holds a secret: base64 of what the key ring sealed for the id of the row. The channel gets that secret
opened, under the key without the ending; key rotation finds secrets by the ending. `allow_bots` means the same on every
platform. Rows are written through `channel.installation.InstallationStore.save`.

*The registration* is a call of `Registry.register(slug, factory, traits)` by the function in `daemon.platforms`. The
entry there can also give the details of a bot that lists show. `daemon.foundation.Foundation` is what the function may
build on. `channel.registry.Traits` are the facts that the rest of the gateway needs: what people call the platform,
what its channels can do, which config keys require a new link when they change, how long answers are divided, and how
to read back past messages. Files in messages come from the source that the platform puts into `Foundation.files`.

*Missing abilities* are simply left out. Without `Capability.TYPING_INDICATOR` the gateway never asks for a typing sign;
a channel with it implements `channel.channel.Typing`. Without `channel.channel.ReadBack`, an answer whose delivery is
uncertain is shown as unknown after an hour. Without a lookup an agent reads `[unable to fetch]`. Without a source for
files, a file is said to be unavailable. Without a way to divide, every answer is one message.

*Some things remain Lark's alone*. The command group `gateway lark` and the routes below `/api/workspaces/…/lark/`
connect and list only Lark's bots, so another platform needs its own way to write its rows. A link to bind an account
leads to `/lark/bind` on every platform, and `gateway lark bind` binds an account of any bot. An issue filed by a
command has the origin `lark_chat`, on whatever platform the chat was. Events that another platform posts need a route
of their own beside `http.ingress.lark_events`.
"""
