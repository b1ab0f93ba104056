"""The platform-neutral contract between chat platforms and the rest of the gateway. Pure: no I/O, no platform word.

How to add a platform
---------------------

A function that registers it, named in `daemon.platforms.PLATFORMS`: nothing else is told. The tests serve such a
platform beside Lark, so its adapter is an example that works.

*The slug* is short and for ever: it stands in every row as `channel_type`, and in metrics.

*The channel* implements `channel.channel.Channel`. `run` holds the link. It calls `started()` once the platform has
accepted the bot, registers with `ChannelConfig.fence` what cuts the link without waiting, and updates
`ChannelConfig.health`. LinkRefused ends it where the platform will not have the bot, LinkLost where trying again may
help; both may come in an exception group. Cancelled, it has one second to settle what it received. Whatever was heard
goes to `ChannelConfig.handler`, messages of one chat in the order in which they came: SETTLED is acknowledged,
REDELIVER or an exception makes the platform tell it again. Where the platform never tells twice, the channel has to.

*What comes in* is a `channel.message.InboundMessage`. Ids are the platform's own, and only have to be unique for one
bot: `message_id` is what makes a message the same when it comes again. `app_id` is the bot, and `command_text` what
the sender typed. `addressed_to_bot` decides in groups, where anything else is dropped before it is stored. `sent_at`
is what commands go stale by.

*What goes out* is `Channel.send` of a `channel.message.OutboundMessage`, to a chat, or to a person who has to be asked
to bind. Failures are those of `channel.errors`, each of which says whether anything may have been sent. The platform
declares what it takes in a time (`Traits.limits`), and for how long it drops a repeat by its `idempotency_key`
(`Traits.key_seconds`); where it keeps no keys, a message in doubt is looked for, and never sent again blindly.

*The installation* is a row of `channel_installation`: the type, an agent, and a JSON config by which only the adapter
decides anything, but for three keys. `app_id` is there, names the bot, and is unique for the type. A key that ends in
`_encrypted` holds a secret, base64 of what the key ring sealed for the id of the row; the channel finds it opened,
without the ending, and key rotation finds it by the ending. `allow_bots` means the same everywhere. Rows are written
through `channel.installation.InstallationStore.save`.

*The registration* is `Registry.register(slug, factory, traits)`, called by a function that `daemon.platforms` names;
`daemon.foundation.Foundation` is what it may build on. `channel.registry.Traits` are what others must know: what people
call the platform, what its channels can do, which keys of a config make another link, how long answers are divided, how
to read back what was said. Files in messages come from the source that the platform puts into `Foundation.files`.

*What a platform cannot do* it leaves out. Without `Capability.TYPING_INDICATOR` (with it, a channel implements
`channel.channel.Typing`) no sign is asked for; without `channel.channel.ReadBack` an answer of which nobody knows
whether it arrived is shown as unknown after an hour; without a lookup an agent reads `[unable to fetch]`; without a
source a file is said to be unavailable; without a way to divide, every answer is one message.

*What stays Lark's alone*: the command group `gateway lark` and the routes below `/api/workspaces/…/lark/` connect and
list Lark's bots, so a platform brings its own way to write its rows. A link to bind an account leads to `/lark/bind` on
every platform, and `gateway lark bind` binds an account of any bot. An issue that was filed by a command has the origin
`lark_chat` wherever the chat was. Events that a platform posts need a route of their own beside
`http.ingress.lark_events`.
"""
