import java.math.BigDecimal;
import java.net.URI;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.util.UUID;

/** A business row and its event in one transaction: both are stored, or neither is. */
public final class Publish {
    static String issueInvoice(Connection db, String customer, BigDecimal total) throws SQLException {
        db.setAutoCommit(false);
        try (var business = db.prepareStatement("insert into invoices (customer, total) values (?, ?) returning id");
             var outbox = db.prepareStatement("insert into outbox (id, aggregatetype, aggregateid, type, payload)"
                 + " values (?, 'invoice', ?, 'InvoiceIssued', jsonb_build_object('invoice', ?, 'customer', ?, 'total', ?))")) {
            business.setString(1, customer);
            business.setBigDecimal(2, total);
            var row = business.executeQuery();
            row.next();
            var invoice = row.getLong(1);
            var event = UUID.randomUUID();
            outbox.setObject(1, event);
            outbox.setString(2, Long.toString(invoice));
            outbox.setLong(3, invoice);
            outbox.setString(4, customer);
            outbox.setString(5, total.toPlainString());
            outbox.executeUpdate();
            if (total.compareTo(new BigDecimal("1000")) > 0) {
                throw new IllegalArgumentException(total + " is over the limit");
            }
            db.commit();
            return "invoice " + invoice + " with event " + event;
        } catch (SQLException | RuntimeException failure) {
            db.rollback();
            throw failure;
        }
    }

    /** DATABASE_URL is as libpq takes it; JDBC wants user and password apart. */
    static Connection connect(String url) throws SQLException {
        var uri = URI.create(url);
        var login = uri.getUserInfo().split(":", 2);
        var jdbc = "jdbc:postgresql://" + uri.getHost() + ":" + (uri.getPort() < 0 ? 5432 : uri.getPort()) + uri.getPath();
        return DriverManager.getConnection(jdbc, login[0], login.length > 1 ? login[1] : "");
    }

    public static void main(String[] args) throws SQLException {
        try (var db = connect(System.getenv("DATABASE_URL"))) {
            System.out.println("committed " + issueInvoice(db, "Ada", new BigDecimal("99.90")));
            try {
                issueInvoice(db, "Bob", new BigDecimal("5000.00"));
            } catch (IllegalArgumentException refused) {
                System.out.println("rolled back: " + refused.getMessage());
            }
        }
    }
}
