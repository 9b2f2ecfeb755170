import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Adds invoices up by customer. However often an event comes, it counts once.
 *
 * <p>The relay may send a record again after a crash, with the same {@code id} header; this consumer may get one again
 * because it ended between its transaction and its offset. The id is stored in the transaction of the effect: who finds
 * it there leaves the event out.
 */
public final class Consumer {
    static final String GROUP = environment("KAFKA_GROUP_ID", "customer-totals");

    /** The effect and its id in one transaction. */
    static void process(Connection db, ConsumerRecord<String, String> record) throws SQLException {
        var id = UUID.fromString(new String(record.headers().lastHeader("id").value(), StandardCharsets.UTF_8));
        try (var remember = db.prepareStatement(
                 "insert into processed_events (consumer, id) values (?, ?) on conflict do nothing");
             var effect = db.prepareStatement(
                 "insert into customer_totals (customer, total, invoices)"
                     + " select event->>'customer', (event->>'total')::numeric, 1 from (select ?::jsonb as event) e"
                     + " on conflict (customer) do update set total = customer_totals.total + excluded.total,"
                     + " invoices = customer_totals.invoices + 1")) {
            remember.setString(1, GROUP);
            remember.setObject(2, id);
            if (remember.executeUpdate() == 0) {
                System.out.println("seen before: " + id);
            } else {
                effect.setString(1, record.value());
                effect.executeUpdate();
            }
            db.commit();
        } catch (SQLException failure) {
            db.rollback();
            throw failure;
        }
    }

    public static void main(String[] args) throws Exception {
        var settings = Map.<String, Object>of(
            "bootstrap.servers", environment("KAFKA_BROKERS", "localhost:9092"),
            "group.id", GROUP,
            "auto.offset.reset", "earliest",
            // So long after a crash the partitions wait for their consumer.
            "session.timeout.ms", "10000",
            // Only what is committed in the database is passed over, by us, below.
            "enable.auto.commit", "false");
        var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        var main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                main.join();
            } catch (InterruptedException ended) {
                Thread.currentThread().interrupt();
            }
        }));
        try (consumer; var db = connect(System.getenv("DATABASE_URL"))) {
            db.setAutoCommit(false);
            consumer.subscribe(List.of(environment("KAFKA_TOPIC", "outbox.event.invoice")));
            while (true) {
                var records = consumer.poll(Duration.ofMillis(200));
                for (var record : records) {
                    process(db, record);
                }
                if (!records.isEmpty()) {
                    consumer.commitSync();
                }
            }
        } catch (WakeupException stop) {
            System.out.println("stopped");
        }
    }

    /** DATABASE_URL is as libpq takes it; JDBC wants user and password apart. */
    static Connection connect(String url) throws SQLException {
        var uri = URI.create(url);
        var login = uri.getUserInfo().split(":", 2);
        var jdbc = "jdbc:postgresql://" + uri.getHost() + ":" + (uri.getPort() < 0 ? 5432 : uri.getPort()) + uri.getPath();
        return DriverManager.getConnection(jdbc, login[0], login.length > 1 ? login[1] : "");
    }

    static String environment(String name, String otherwise) {
        return Optional.ofNullable(System.getenv(name)).orElse(otherwise);
    }
}
