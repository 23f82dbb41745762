"""One server's requests in, many machines' work out: the application of ``riffusion_rt.server`` on a Ray cluster.

How it is laid out, and why:

* Two Serve applications. ``riffusion-door`` has the one ingress replica, which runs the very ``ServerApp`` that
  ``riffusion-rt serve`` runs: its routes, limits, queue, result store and page. ``riffusion-engines`` has the replicas
  that own models. Either is redeployed without touching the other: a new model replaces engines one after another,
  each of which first finishes what it is at, while the door goes on accepting.
* **A job belongs to the door.** Its id, its place in the queue and its result live there; an engine replica is lent
  one making of it, as one streaming call that yields stages and then the clip. Where the node of that replica dies,
  the call fails and the door makes it again elsewhere. A result is put under a job's id once, by the door: nothing can
  be there twice, and nothing that was answered with 202 hangs on an engine.
* **Back-pressure is the server's own**: the door's queue answers 429 and 503 with Retry-After. As many jobs as all
  engines together may take are lent at a time; Serve sees them as ongoing requests and adds or removes engines.
* **A live session is one streaming call** that lasts as long as the session, and so it lives in one engine replica.
  What its client sends goes there through the ``Mailbox``. The door knows the sessions by their ids, so that a
  resumed one finds its replica; if that has died, the client is told, and sets up another one.
* The door and the mailbox are placed on the head node, where Ray's own control store and Serve's controller are:
  they are lost when the cluster is, and not before. A door that crashes alone is started again by Serve, but its
  queue and results are gone, as they are when the process of ``riffusion-rt serve`` crashes.
* One door is enough for what it does, which is to check, queue, encode and send. Where it is not, run several
  clusters behind a balancer that knows its clients.

Nothing here is imported unless ``--ray`` is asked for.
"""
